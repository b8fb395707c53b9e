"""The duty ``coded``: a combination of the moves of some batches of shared data.

The work names units of jobs and their coefficients (``strategies.coding.jobs``). A job
is a number of batches; batch k belongs to unit k mod ``units``. All peers hold the same
rows in the same order and draw a job's batches by its number, so a batch is the same
batch everywhere, its gradient has the same bits, and the server can decode.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from clients.trainers.autograd import check_fit, on_device
from clients.trainers.method import Method, device_of, reproducible, seed_draws
from clients.trainers.rules import Rule
from clients.trainers.terms import clip
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, load
from strategies.coding.jobs import CODING, HERE

MOST_BATCHES = 1_000_000


@dataclass(frozen=True, slots=True)
class Slot:
    """What is asked in one slot.

    Attributes:
        job: whose batches they are.
        share: coefficient of each unit asked for.
    """

    job: int
    share: Mapping[int, float]


def coded(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Return the combination that ``work`` asks for, or only that we are here.

    The payload holds a move of the model for each slot, float32: what one SGD step
    along each batch alone would do, times the unit's coefficient, summed over the
    batches and divided by the job's number of batches.

    Raises:
        ProtocolError: the work does not fit the task's model, or is malformed.
    """
    if CODING not in work.aux:
        return Update(peer, work.version, {HERE: torch.zeros(1)}, task.examples)
    payload: dict[str, Tensor] = {}
    losses: list[float] = []
    with reproducible():
        model = task.model().to(device_of(method.device)).train()
        for number, slot in slots_of(work, peer).items():
            params = _params(work, number)
            check_fit(model.state_dict(), replace(work, params=params), peer)
            own = replace(method, lr=method.rate(replace(work, version=slot.job)))
            moved = _combined(model, params, _batches(task, work, slot), task, own)
            payload |= {f"{number}.{name}": t.float() for name, t in moved[0].items()}
            losses += moved[1]
    metrics = {"loss": sum(losses) / len(losses)} if losses else {}
    return Update(peer, work.version, payload, task.examples, metrics)


def slots_of(work: Work, peer: PeerId) -> Mapping[int, Slot]:
    """Return what ``work`` asks in each slot, in its order.

    Raises:
        ProtocolError: it is malformed.
    """
    rows, units = work.aux[CODING], work.hints.get("units", 0)
    if rows.ndim != 2 or rows.shape[1] != 4 or not isinstance(units, int) or units < 1:
        raise ProtocolError(f"{peer}: coded work of a form that we do not know")
    slots: dict[int, Slot] = {}
    for slot, job, unit, coefficient in rows.tolist():
        known = slots.get(int(slot), Slot(int(job), {}))
        share = {**known.share, int(unit): coefficient}
        slots[int(slot)] = replace(known, share=share)
    return slots


def _params(work: Work, number: int) -> Params:
    """Return the model of a slot: that of the first comes as ``params``."""
    mark = f"{number}."
    own = {k.removeprefix(mark): t for k, t in work.aux.items() if k.startswith(mark)}
    return own or work.params


def _batches(task: Task, work: Work, slot: Slot) -> Iterator[tuple[Batch, float, int]]:
    """Yield the batches of ``slot``, what each counts, and the seed of its draws."""
    count, units = int(work.hints.get("batches", 0)), int(work.hints["units"])
    if not 0 < count <= MOST_BATCHES:
        raise ProtocolError(f"coded work on {count} batches")
    drawn = islice(task.batches(seed_of("job", slot.job)), count)
    for k, batch in enumerate(drawn):
        coefficient = slot.share.get(k % units)
        if coefficient is not None:
            yield batch, coefficient / count, seed_of("draws", slot.job, k)


def _combined(
    model: nn.Module,
    params: Params,
    batches: Iterator[tuple[Batch, float, int]],
    task: Task,
    method: Method,
) -> tuple[Params, list[float]]:
    """Return the sum of the moves along ``batches``, float64, and their losses."""
    load(model, params)
    total = {n: torch.zeros(t.shape, dtype=torch.float64) for n, t in params.items()}
    fixed = {n for n, _ in model.named_parameters()}
    running = {n: t for n, t in params.items() if n not in fixed}
    named = model.named_parameters()
    weights = {n: p for n, p in named if p.requires_grad and n in params}
    device = next(model.parameters()).device
    losses: list[float] = []
    for batch, scale, seed in batches:
        load(model, running)
        seed_draws(device, seed)  # all peers drop out the same
        loss = task.loss(model, on_device(batch, device))
        losses.append(loss.item())
        for name, g in _gradient(loss, weights, method).items():
            total[name] -= g.cpu().double() * (method.lr * scale)
        after = model.state_dict()
        for name, t in running.items():
            total[name] += (after[name].cpu() - t).double() * scale
    return total, losses


def _gradient(loss: Tensor, weights: Params, method: Method) -> Params:
    """Return the gradient of ``loss`` as plain SGD would use it."""
    own = list(weights.values())
    grads = list(
        torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
    )
    with torch.no_grad():
        if method.weight_decay:
            torch._foreach_add_(grads, own, alpha=method.weight_decay)
        if method.clip_norm:
            clip(grads, method.clip_norm)
    return dict(zip(weights, grads, strict=True))
