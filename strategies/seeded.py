"""Models that are a few integers: the state of strategies with shared seeds.

A pool of K shared directions z_k turns integers A into weights

    w = w0 + scale * sum over epochs e and k of A[e, k] 2^-32 z_k^(e)

so training only ever adds to A, exactly and in any order. What a peer needs to have
the model is w0, which never changes, and A: 8 K bytes an epoch, however large the
model and however long the training. Running statistics stay as they are in w0.

Notation, here and in ``fedcore.pool``:
    w0       base                 ``Seeded.base``
    A        coefficients         ``Seeded.coefficients``, int64 (E, K), unit 2^-32
    e        epoch of the pool    row of A; ``rotate`` rounds each

Saturation: an element of A is held within ``limit(K)``, so that it can be expanded
exactly; what is cut short is counted in ``Seeded.cut``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.params import Params, digest
from fedcore.partial import Sum, summed
from fedcore.pool import Pool, expand
from fedcore.seeds import words
from fedcore.strategy import PeerId, Update
from strategies.buffers import weights_of


@dataclass(frozen=True)
class Seeded:
    """A model as integers; ``params`` is made of them when it is first asked for.

    Attributes:
        version: rounds folded.
        base: w0, the model before the first round; the same object in every work.
        base_id: its ``digest``.
        pool: of the directions.
        scale: what multiplies all coefficients; minus the step size, mostly.
        coefficients: A, int64 (E, K); the last row is of the epoch under way.
        cut: numbers cut short at a limit so far.
    """

    version: int
    base: Params
    base_id: str
    pool: Pool
    scale: float
    coefficients: Tensor
    cut: int = 0

    @cached_property
    def params(self) -> Params:
        """The model, expanded; kept for as long as this state is."""
        return expanded(self.pool, self.coefficients, self.scale, self.base)


def begun(params: Params, pool: Pool, scale: float) -> Seeded:
    """Return the state before the first round: no coefficient has moved."""
    line = torch.zeros(1, pool.size, dtype=torch.int64)
    return Seeded(0, params, digest(params), pool, scale, line)


def expanded(pool: Pool, coefficients: Tensor, scale: float, base: Params) -> Params:
    """Return ``base`` with its weights moved; statistics stay, in the same order."""
    return {**base, **expand(pool, coefficients, scale, weights_of(base))}


def epoch_of(version: int, rotate: int) -> int:
    """Return the pool's epoch for work of ``version``; 0 for ever without rotation."""
    return version // rotate if rotate else 0


def limit(size: int) -> int:
    """Return the size within which coefficients of ``size`` directions are held.

    A pool expands what sums to less than 2^62 in size. Half of that is for the state,
    the other half for what peers add to it on their own before they answer.
    """
    return (1 << 61) // size


def divided(total: Tensor, by: int) -> Tensor:
    """Return ``total / by`` rounded to integers, ties to even; int64, ``by`` >= 1."""
    whole = total.div(by, rounding_mode="floor")
    rest = total - whole * by  # 0 .. by - 1
    twice = 2 * rest
    up = (twice > by) | ((twice == by) & (whole % 2 == 1))
    return whole + up.long()


def mean_of_integers(
    updates: Sequence[Update], name: str, weight: int | None = None
) -> Tensor:
    """Return the mean payload ``name`` in units of 2^-32, weighted by examples.

    The exact sum on the ring is divided once and rounded to integers, ties to even:
    the same bits in any order, merged or not.

    Args:
        updates: one or more.
        name: of a tensor in their payloads, float32, or int64 ring elements.
        weight: to divide by, where ``updates`` are not all there are; their own
            examples if None.

    Raises:
        ProtocolError: see ``fedcore.partial.Partial.add``; or the mean leaves int64.
    """
    partial = summed(updates)
    return _shares(partial.sums[name], weight or partial.examples)


def _shares(whole: Sum, weight: int) -> Tensor:
    if whole.wraps is None:
        return divided(whole.total, weight)
    pairs = zip(whole.total.tolist(), whole.wraps.tolist(), strict=True)
    exact = [_rounded(low + (turns << 64), weight) for low, turns in pairs]
    if any(abs(value) >= 1 << 63 for value in exact):
        raise ProtocolError("a mean of coefficients leaves 64 bits")
    return torch.tensor(exact, dtype=torch.int64)


def _rounded(total: int, by: int) -> int:
    whole, rest = divmod(total, by)
    return whole + (2 * rest > by or (2 * rest == by and whole % 2 == 1))


SeededT = TypeVar("SeededT", bound=Seeded)


def folded(state: SeededT, updates: Sequence[Update], rotate: int) -> SeededT:
    """Return the next state: the mean of the payloads ``coefficients`` is added to A.

    An answer to work of an earlier epoch of the pool still counts: it is added to the
    row that it was made for. Updates that stand for many must not mix epochs.
    """
    line = state.coefficients.clone()
    weight = sum(u.examples for u in updates)
    for epoch in sorted({epoch_of(u.version, rotate) for u in updates}):
        mine = [u for u in updates if epoch_of(u.version, rotate) == epoch]
        line[epoch] += mean_of_integers(mine, "coefficients", weight)
    held, cut = held_within(line, limit(state.pool.size))
    version = state.version + 1
    if epoch_of(version, rotate) == len(held):
        held = torch.cat([held, torch.zeros_like(held[:1])])
    return replace(state, version=version, coefficients=held, cut=state.cut + cut)


def held_within(t: Tensor, most: float) -> tuple[Tensor, int]:
    """Return ``t`` with its numbers held within ``most``, and how many were beyond."""
    held = t.clamp(-most, most)
    return held, int((held != t).sum())


def drawn(
    pool: Pool, peer: PeerId, version: int, turn: int, count: int
) -> "np.ndarray":
    """Return ``count`` random words for what ``peer`` draws in one work, uint64.

    They follow from names alone, so whoever knows the work can draw them again, and no
    peer can choose them. ``turn``: see ``fedcore.task.seed_for``.
    """
    return words(count, "probes", pool.word(), peer, version, turn)


def turn_of(update: Update) -> int:
    """Return the turn that ``update`` tells; 0 if that is no count.

    A peer that lies here only misplaces its own steps.
    """
    told = update.metrics.get("turn", 0)
    return int(told) if 0 <= told < 1 << 31 else 0


def indices(random: "np.ndarray", size: int, chances: Tensor | None = None) -> Tensor:
    """Return one direction of ``size`` for each word of ``random``, int64 (n,).

    Args:
        random: uint64 (n,).
        size: of the pool, a power of two.
        chances: integers >= 1 (K,) that the odds are proportional to; even if None.
    """
    if chances is None:
        return torch.from_numpy((random % np.uint64(size)).astype(np.int64))
    ends = np.cumsum(chances.numpy(), dtype=np.int64)
    places = (random % np.uint64(ends[-1])).astype(np.int64)
    return torch.from_numpy(np.searchsorted(ends, places, side="right"))


def spread(directions: Tensor, amounts: Tensor, size: int) -> Tensor:
    """Return the sum of ``amounts`` for each of ``size`` directions, int64 (size,).

    Args:
        directions: int64 (n,), below ``size``.
        amounts: int64 (n,).
        size: of the pool.
    """
    line = torch.zeros(size, dtype=torch.int64)
    return line.index_add_(0, directions, amounts)
