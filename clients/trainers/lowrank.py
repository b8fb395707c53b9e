"""Duty "lowrank" of FedSpine: train adapters on a model pruned for the round.

Every matrix W (out, in) of the model becomes (W + B A) with some columns at zero. Only
B (out, r) and A (r, in) are trained, and whatever is no matrix. The gradient of the
whole matrix comes from autograd, and those of the factors follow by hand:
dB = dW Aᵀ, dA = Bᵀ dW. So any model will do, and no layer is replaced.

B starts at 0 and A as random signs times the hint ``scale``, one for all ranks. On
average over A the first step of B moves the weight by r scale² times what plain SGD
would, and how long a step stays stable hardly depends on r.

Columns are pruned by importance |Σ_i W_ij dW_ij|, measured on the first batch and
blended with that of the rounds before, which the peer keeps (``Update.keep``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from clients.trainers.autograd import (
    check_fit,
    gradient_of,
    moved_from,
    on_device,
)
from clients.trainers.method import Method, device_of, reproducible, seed_draws
from clients.trainers.rules import Rule
from clients.trainers.terms import clip
from fedcore.errors import ProtocolError
from fedcore.params import Params, scaled
from fedcore.seeds import seed_of, signs
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, load, seed_for, steps_of
from strategies.lora_sum import DOWN, UP, factored, is_factored

BLEND = 0.5  # share of the importance of this round in what is kept
KEPT = "importance:"  # before the name of a matrix, in what the peer keeps

Gradients = Mapping[str, Tensor]  # by the name under which the model trains a weight


@dataclass(frozen=True, slots=True)
class Adapter:
    """One matrix of the model, its factors, and its columns that are not pruned.

    Attributes:
        weight: the model's own parameter (out, in); overwritten by ``put``.
        start: what it was, (out, in).
        left: 1 for columns that are left, 0 for pruned ones, (in,).
        up: B (out, r).
        down: A (r, in).
    """

    weight: Tensor
    start: Tensor
    left: Tensor
    up: Tensor
    down: Tensor

    def put(self) -> None:
        """Write (W + B A), pruned, into the model."""
        self.weight.copy_((self.start + self.up @ self.down) * self.left)

    def back(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return dB and dA for the ``gradient`` of the weight in the model."""
        own = gradient * self.left
        return own @ self.down.T, self.up.T @ own


def lowrank(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Train adapters and return their factors, pruned columns of A at zero.

    Reports how much of the first batch's loss went away (``drop``, at most 1) and what
    share of the importance was not pruned (``kept``).

    Raises:
        ProtocolError: the work does not fit the task's model, or asks for an
            impossible rank, ratio or scale.
    """
    rank, ratio, scale = _asked(work)
    steps, device = steps_of(task, work), device_of(method.device)
    with reproducible():
        model = task.model().to(device)
        check_fit(model.state_dict(), work, peer)
        load(model, work.params)
        seed_draws(device, seed_for("draws", peer, work))
        batches = _batches(task, work, peer, device)
        probe = next(_batches(task, work, peer, device))
        before, first = _gradients(task, model.eval(), probe)
        scores = _importance(model, first, work.kept)
        factors = _factors(model, scores, rank, scale, (peer, work.version))
        adapters = _adapters(model, scores, ratio, factors)
        loss = _walk(task, model.train(), batches, adapters, method, rule)
        with torch.no_grad():
            after = float(task.loss(model.eval(), probe))
        payload = _payload(model, adapters, factored(work.params, rank), work.params)
    metrics = {
        "loss": loss / steps,
        "steps": float(steps),
        "drop": _drop(before, after),
        "kept": _kept(scores, adapters),
        "arm": float(work.hints.get("arm", 0)),
    }
    keep = {KEPT + name: score.cpu() for name, score in scores.items()}
    return Update(peer, work.version, payload, task.examples, metrics, keep)


def _asked(work: Work) -> tuple[int, float, float]:
    rank, ratio, scale = (work.hints.get(n) for n in ("rank", "ratio", "scale"))
    if not isinstance(rank, int) or rank < 1:
        raise ProtocolError(f"hint rank must be an integer >= 1: {rank!r}")
    if not isinstance(ratio, int | float) or not 0 <= ratio < 1:
        raise ProtocolError(f"hint ratio must be in [0, 1): {ratio!r}")
    if not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise ProtocolError(f"hint scale must be in (0, 1]: {scale!r}")
    return rank, float(ratio), float(scale)


def _batches(
    task: Task, work: Work, peer: PeerId, device: torch.device
) -> Iterator[Batch]:
    batches = task.batches(seed_for("batches", peer, work))
    return (on_device(b, device) for b in islice(batches, steps_of(task, work)))


def _trained(model: nn.Module) -> Mapping[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _gradients(task: Task, model: nn.Module, batch: Batch) -> tuple[float, Gradients]:
    weights = _trained(model)
    loss, grads = gradient_of(task, model, list(weights.values()), batch)
    return float(loss), dict(zip(weights, grads, strict=True))


def _importance(model: nn.Module, grads: Gradients, kept: Params) -> Params:
    """Return the share of each column in the importance of its matrix, (in,)."""
    scores: dict[str, Tensor] = {}
    for name, w in _trained(model).items():
        if not is_factored(w):
            continue
        score = (w.detach() * grads[name]).sum(0).abs()
        score = score / score.sum().clamp_min(torch.finfo(score.dtype).tiny)
        old = kept.get(KEPT + name)
        if old is not None and old.shape == score.shape:
            score = BLEND * score + (1 - BLEND) * old.to(score)
        scores[name] = score
    return scores


def _factors(
    model: nn.Module, scores: Params, rank: int, scale: float, draw: tuple[str, int]
) -> Params:
    """Return B and A of every scored matrix: zeros, and signs times ``scale``."""
    weights = _trained(model)
    tree = factored({name: weights[name].detach() for name in scores}, rank)
    downs = {name: t for name, t in tree.items() if name.endswith(DOWN)}
    drawn = signs(seed_of("adapters", *draw), downs)
    return {**tree, **scaled(drawn, scale)}


def _adapters(
    model: nn.Module, scores: Params, ratio: float, factors: Params
) -> Mapping[str, Adapter]:
    weights = _trained(model)
    return {
        name: Adapter(
            weights[name],
            weights[name].detach().clone(),
            _left(score, ratio),
            factors[name + UP].to(score),
            factors[name + DOWN].to(score),
        )
        for name, score in scores.items()
    }


def _left(score: Tensor, ratio: float) -> Tensor:
    """Return 0 for the share ``ratio`` of columns of least ``score``, 1 for others."""
    left = torch.ones_like(score)
    left[torch.argsort(score, stable=True)[: int(ratio * len(score))]] = 0
    return left


def _walk(
    task: Task,
    model: nn.Module,
    batches: Iterator[Batch],
    adapters: Mapping[str, Adapter],
    method: Method,
    rule: Rule,
) -> float:
    """Take one step per batch; return the sum of the losses."""
    dense = {n: p for n, p in _trained(model).items() if n not in adapters}
    moving = [f for a in adapters.values() for f in (a.up, a.down)]
    moving += list(dense.values())
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            for adapter in adapters.values():
                adapter.put()
            with torch.enable_grad():
                loss, found = _gradients(task, model, batch)
            grads = [g for n, a in adapters.items() for g in a.back(found[n])]
            grads += [found[n] for n in dense]
            if method.clip_norm:
                clip(grads, method.clip_norm)
            rule.step(moving, grads)
            total += loss
        for adapter in adapters.values():
            adapter.put()
    return total


def _payload(
    model: nn.Module, adapters: Mapping[str, Adapter], like: Params, start: Params
) -> Params:
    """Return the factors of matrices and how far the rest moved, on the CPU.

    A matrix that the model does not train has factors of zero; one that goes by two
    names has the same factors under both.
    """
    own = model.state_dict(keep_vars=True)
    by_weight = {id(a.weight): a for a in adapters.values()}
    rest = {n: t for n, t in start.items() if not is_factored(t)}
    payload = {**like, **moved_from(rest, own)}
    for name in start.keys() - rest.keys():
        adapter = by_weight.get(id(own[name]))
        if adapter is not None:
            payload[name + UP] = adapter.up.float().cpu()
            payload[name + DOWN] = (adapter.down * adapter.left).float().cpu()
    return payload


def _drop(before: float, after: float) -> float:
    """Return the share of ``before`` that went away, in [-1, 1]."""
    return max(-1.0, min(1.0, (before - after) / before)) if before > 0 else 0.0


def _kept(scores: Params, adapters: Mapping[str, Adapter]) -> float:
    """Return the share of all importance that was not pruned, in [0, 1]."""
    whole = sum(float(s.sum()) for s in scores.values())
    left = sum(float((s * adapters[n].left).sum()) for n, s in scores.items())
    return left / whole if whole else 1.0
