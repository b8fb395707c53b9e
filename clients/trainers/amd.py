"""Duties of FedAMD (``strategies.fedamd``): anchors and miners.

Both see the model as it is evaluated: running statistics stay as they came and
nothing is dropped out, so that two gradients on one batch differ by the weights alone.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from clients.trainers.autograd import (
    check_fit,
    gradient_of,
    moved_from,
    on_device,
    rows_of,
)
from clients.trainers.method import Method, device_of, reproducible, seed_draws
from clients.trainers.rules import Rule
from clients.trainers.terms import clip
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, load, seed_for, steps_of
from strategies.buffers import weights_of
from strategies.fedamd import MARK

Tensors = list[Tensor]


def anchor(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Return the gradient at the model, over the batches that ``work`` counts.

    Batches count by their rows, so one whole pass is the gradient of all examples.

    Raises:
        ProtocolError: the work does not fit the task's model.
    """
    with reproducible():
        model = _frozen(task, work, peer, method)
        weights = _trainable(model)
        total, losses, rows = [torch.zeros_like(w) for w in weights], 0.0, 0
        for seed, batch in _batches(task, work, peer, weights[0].device):
            loss, grads = _gradient(task, model, batch, seed)
            count = rows_of(batch)
            torch._foreach_add_(total, grads, alpha=count)
            losses, rows = losses + count * loss, rows + count
        torch._foreach_div_(total, rows)
        payload = _named(model, total, work.params)
    return _update(task, work, peer, payload, losses / rows)


def miner(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Walk along the mean gradient in ``work.aux``, corrected at every step.

    The step is the trainer's; so is the limit on the length of a direction.

    Raises:
        ProtocolError: the work does not fit the task's model, or has no mean gradient.
    """
    with reproducible():
        model, then = (_frozen(task, work, peer, method) for _ in range(2))
        weights, before = _trainable(model), _trainable(then)
        direction, losses = _given(model, work, peer), 0.0
        for seed, batch in _batches(task, work, peer, weights[0].device):
            loss, now = _gradient(task, model, batch, seed)
            _, old = _gradient(task, then, batch, seed)
            torch._foreach_add_(direction, now)
            torch._foreach_sub_(direction, old)
            losses += loss
            with torch.no_grad():
                torch._foreach_copy_(before, weights)
                rule.step(weights, _limited(direction, method.clip_norm))
        payload = moved_from(weights_of(work.params), model.state_dict())
    return _update(task, work, peer, payload, losses / steps_of(task, work))


def _update(
    task: Task, work: Work, peer: PeerId, payload: Params, loss: float
) -> Update:
    metrics = {"loss": loss, "steps": float(steps_of(task, work))}
    return Update(peer, work.version, payload, task.examples, metrics)


def _frozen(task: Task, work: Work, peer: PeerId, method: Method) -> nn.Module:
    model = task.model().to(device_of(method.device)).eval()
    check_fit(model.state_dict(), work, peer)
    return load(model, work.params)


def _trainable(model: nn.Module) -> Tensors:
    return [p for p in model.parameters() if p.requires_grad]


def _batches(
    task: Task, work: Work, peer: PeerId, device: torch.device
) -> Iterator[tuple[int, Batch]]:
    """Yield each batch with a seed for whatever its loss may draw."""
    batches = task.batches(seed_for("batches", peer, work))
    for i, batch in enumerate(islice(batches, steps_of(task, work))):
        yield seed_for("draws", peer, work, i), on_device(batch, device)


def _gradient(
    task: Task, model: nn.Module, batch: Batch, seed: int
) -> tuple[float, Tensors]:
    """Return the loss and its gradient; the same draws for the same ``seed``."""
    seed_draws(next(model.parameters()).device, seed)
    loss, grads = gradient_of(task, model, _trainable(model), batch)
    return float(loss), list(grads)


def _named(model: nn.Module, grads: Tensors, like: Params) -> Params:
    """Return ``grads`` by name, on the CPU; zeros for what nothing trains."""
    own = model.state_dict(keep_vars=True)
    grad_of = {id(w): g for w, g in zip(_trainable(model), grads, strict=True)}
    found = {name: grad_of.get(id(own[name])) for name in weights_of(like)}
    return {
        f"{MARK}{name}": torch.zeros(like[name].shape) if g is None else g.float().cpu()
        for name, g in found.items()
    }


def _given(model: nn.Module, work: Work, peer: PeerId) -> Tensors:
    """Return the mean gradient that came with ``work``, in the model's order."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, p in named.items():
        if name not in work.aux or work.aux[name].shape != p.shape:
            raise ProtocolError(
                f"{peer}: a miner needs the mean gradient of {name!r}, of shape "
                f"{tuple(p.shape)}"
            )
    return [work.aux[name].to(p, copy=True) for name, p in named.items()]


def _limited(direction: Tensors, limit: float) -> Tensors:
    """Return a copy of ``direction`` to be used up, at most ``limit`` long."""
    step = [t.clone() for t in direction]
    if limit:
        clip(step, limit)
    return step
