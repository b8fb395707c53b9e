"""What a strategy asks of the duty ``zeroth``, read and checked.

All of it comes from outside. What does not fit is refused by name, before the model
is touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.pool import Pool
from fedcore.strategy import PeerId, Work
from fedcore.task import Task, seed_for, steps_of
from strategies.mezo import fresh
from strategies.probing import MOST_CLIP, MOST_PROBES, Answer
from strategies.seeded import drawn, indices

ANSWERS: tuple[Answer, ...] = get_args(Answer)
MOST_SHARE = 1 << 50
MOST_SIZE = 1e30  # far above what can be meant, far below what overflows

Hints = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Asked:
    """The settings of one piece of work; see ``strategies.probing``.

    Attributes:
        answer: what is sent back.
        pool: of the directions.
        coefficients: where the model is along them, int64 (E, K).
        which: the direction of each probe, int64 (steps * directions,).
        scale: what multiplies coefficients: minus the step size.
        eps: how far from the model the loss is probed, > 0.
        clip: largest size of one scalar, > 0.
        directions: probes averaged in one step, >= 1.
        share: what a scalar is divided by, >= 1.
        sigma: the middle of what a byte can tell.
    """

    answer: Answer
    pool: Pool
    coefficients: Tensor
    which: Tensor
    scale: float
    eps: float
    clip: float
    directions: int
    share: int
    sigma: float


def asked(task: Task, work: Work, peer: PeerId) -> Asked:
    """Return what ``work`` asks of ``task``.

    Raises:
        ProtocolError: a hint or a tensor is missing, or out of its range.
    """
    hints = work.hints
    directions = _count(hints, "directions", MOST_PROBES)
    probes = steps_of(task, work) * directions
    if probes > MOST_PROBES:
        raise ProtocolError(
            f"{peer}: {probes} probes are asked for, and {MOST_PROBES} are the most: "
            "set steps, or lower epochs or directions"
        )
    pool = _pool(work, peer, probes)
    return Asked(
        answer=_answer(work),
        pool=pool,
        coefficients=_coefficients(work, pool),
        which=_which(work, peer, pool, probes),
        scale=-_size(hints, "lr"),
        eps=_size(hints, "eps"),
        clip=_size(hints, "clip", MOST_CLIP),
        directions=directions,
        share=_count(hints, "share", MOST_SHARE),
        sigma=_size(hints, "sigma") if _answer(work) == "bytes" else 1.0,
    )


def _answer(work: Work) -> Answer:
    wanted = work.hints.get("answer")
    for answer in ANSWERS:
        if wanted == answer:
            return answer
    raise ProtocolError(f"hint answer is {wanted!r:.40}, none of {ANSWERS}")


def turn_of(work: Work, peer: PeerId) -> int:
    """Return how many answers ``peer`` has given to this version before.

    Raises:
        ProtocolError: the hint is no count.
    """
    seed_for("turn", peer, work)  # judges the hint
    return int(work.hints.get("turn", 0))


def _pool(work: Work, peer: PeerId, probes: int) -> Pool:
    """Return the pool of the work: the shared one, or one of its own."""
    shared = Pool.of(str(work.hints.get("pool")))
    if _answer(work) != "scalars":
        return shared
    return fresh(shared, peer, work.version, turn_of(work, peer), probes)


def _coefficients(work: Work, pool: Pool) -> Tensor:
    if _answer(work) == "scalars":
        return torch.zeros(1, pool.size, dtype=torch.int64)
    line = work.aux.get("coefficients")
    if line is None or line.dtype != torch.int64:
        raise ProtocolError("the work has no coefficients in int64")
    if line.ndim != 2 or not len(line) or line.shape[1] != pool.size:
        shape = tuple(line.shape)
        raise ProtocolError(f"coefficients of shape {shape}, not (E, {pool.size})")
    return line


def _which(work: Work, peer: PeerId, pool: Pool, probes: int) -> Tensor:
    """Return the direction of each probe, int64 (probes,)."""
    answer = _answer(work)
    if answer == "scalars":
        return torch.arange(probes)
    random = drawn(pool, peer, work.version, turn_of(work, peer), probes)
    chances = _chances(work, pool) if answer == "weighed" else None
    return indices(random, pool.size, chances)


def _chances(work: Work, pool: Pool) -> Tensor:
    chances = work.aux.get("chances")
    if chances is None or chances.dtype != torch.uint8:
        raise ProtocolError("the work has no chances in uint8")
    if chances.shape != (pool.size,) or not chances.all():
        raise ProtocolError(f"chances must be {pool.size} numbers above 0")
    return chances


def _size(hints: Hints, name: str, most: float = MOST_SIZE) -> float:
    value = hints.get(name)
    if isinstance(value, bool | str | None) or not 0 < value <= most:
        rule = f"must be above 0 and at most {most:g}"
        raise ProtocolError(f"hint {name} {rule}: {value!r:.40}")
    return float(value)


def _count(hints: Hints, name: str, most: int) -> int:
    value = hints.get(name)
    if type(value) is not int or not 1 <= value <= most:
        raise ProtocolError(f"hint {name} must be 1 to {most}: {value!r:.40}")
    return value
