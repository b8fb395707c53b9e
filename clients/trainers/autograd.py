"""Local training of any model under any loss, by torch's autograd."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clients.trainers.method import Method, device_of, reproducible, seed_draws
from clients.trainers.rules import Rule, Tensors
from clients.trainers.terms import Terms, terms_of
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, load, seed_for, steps_of

Gradient: TypeAlias = Callable[
    [Task, nn.Module, Tensors, Batch], tuple[Tensor, Tensors]
]


def gradient_of(
    task: Task, model: nn.Module, weights: Tensors, batch: Batch
) -> tuple[Tensor, Tensors]:
    """Return the loss of ``model`` on ``batch`` and its gradient for ``weights``."""
    loss = task.loss(model, batch)
    grads = torch.autograd.grad(
        loss, weights, allow_unused=True, materialize_grads=True
    )
    return loss.detach(), grads


def train(
    task: Task,
    work: Work,
    peer: PeerId,
    method: Method,
    rule: Rule,
    gradient: Gradient = gradient_of,
) -> Update:
    """Train on ``task`` by autograd and return how far the model moved.

    Each step goes along ``gradient``; it may write into the weights for a while, and
    must put them back.

    Raises:
        ProtocolError: the work does not fit the task's model.
    """
    steps, device = steps_of(task, work), device_of(method.device)
    with reproducible():
        model = task.model().to(device).train()
        check_fit(model.state_dict(), work, peer)
        load(model, work.params)
        seed_draws(device, seed_for("draws", peer, work))
        batches = task.batches(seed_for("batches", peer, work))
        terms = _terms(model, work, method)
        total = _walk(model, task, islice(batches, steps), terms, rule, gradient)
        moved = moved_from(work.params, model.state_dict())
        loss = float(total) / steps
    metrics = {"loss": loss, "steps": float(steps)}
    return Update(peer, work.version, moved, task.examples, metrics)


def _walk(
    model: nn.Module,
    task: Task,
    batches: Iterator[Batch],
    terms: Terms,
    rule: Rule,
    gradient: Gradient,
) -> Tensor:
    """Take one step per batch; return the sum of the losses, shape ()."""
    weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
    for batch in batches:
        loss, grads = gradient(task, model, weights, on_device(batch, total.device))
        with torch.no_grad():
            terms.apply(weights, grads)
            rule.step(weights, grads)
            total += loss
    return total


def _terms(model: nn.Module, work: Work, method: Method) -> Terms:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return terms_of(named, work, method.clip_norm)


def check_fit(own: Params, work: Work, peer: PeerId) -> None:
    """Check that every tensor of ``work.params`` has its place in ``own``.

    Raises:
        ProtocolError: a name is unknown, or a shape is another.
    """
    for name, t in work.params.items():
        if name not in own:
            raise ProtocolError(f"{peer}: the task's model has no tensor {name!r}")
        if own[name].shape != t.shape:
            raise ProtocolError(
                f"{peer}: {name!r} has shape {tuple(t.shape)}, but the task's model "
                f"has {tuple(own[name].shape)}"
            )


def moved_from(start: Params, now: Params) -> Params:
    """Return ``now - start`` for the names of ``start``, on the CPU."""
    return {name: now[name].detach().to(t.device) - t for name, t in start.items()}


def on_device(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` with its tensors on ``device``; looks into tuples and dicts."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple | list):
        return type(batch)(on_device(part, device) for part in batch)
    if isinstance(batch, dict):
        return {key: on_device(part, device) for key, part in batch.items()}
    return batch


def rows_of(batch: Any) -> int:
    """Return the rows of ``batch``: of its first tensor; 1 if none is seen."""
    if isinstance(batch, Tensor) and batch.ndim:
        return len(batch)
    if isinstance(batch, tuple | list) and batch:
        return rows_of(batch[0])
    if isinstance(batch, dict) and batch:
        return rows_of(next(iter(batch.values())))
    return 1
