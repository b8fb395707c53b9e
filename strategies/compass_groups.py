"""FedCompass's arithmetic: who shares a group, how many batches each does, until when.

Pure functions of numbers, so that another rule can take some and change the rest. The
names of the paper are in ``strategies.compass_pacer``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor

from fedcore.strategy import PeerId, Update

LEAST_S = 1e-9  # clocks may not tell a quick answer from none; speeds are divided by
SLACK = 1 + 1e-9  # n steps of a time that is n steps long, whatever was rounded


@dataclass(frozen=True, slots=True)
class Group:
    """Peers meant to answer at one time.

    Attributes:
        number: counts groups, from 1.
        expected_s: when all should have answered.
        latest_s: when it is folded without those who have not.
        working: members still at work.
        arrived: answers that wait for the rest.
    """

    number: int
    expected_s: float
    latest_s: float
    working: frozenset[PeerId]
    arrived: tuple[Update, ...] = ()

    def members(self) -> frozenset[PeerId]:
        """Return all whose answers are waited for or here."""
        return self.working | {u.peer for u in self.arrived}


@dataclass(frozen=True, slots=True)
class Steps:
    """How many batches a peer may be given.

    Attributes:
        least: Q_min, below which no answer is worth its message.
        most: Q_max, above which peers drift apart.
    """

    least: int
    most: int


def learned(
    old: float | None, took_s: float, steps: int, speed_momentum: float
) -> float:
    """Return a peer's seconds per batch after ``steps`` of them took ``took_s``."""
    new = max(took_s, LEAST_S) / steps
    return new if old is None else (1 - speed_momentum) * old + speed_momentum * new


def steps_until(end_s: float, now_s: float, step_s: float) -> int:
    """Return the whole batches of ``step_s`` that fit between now and ``end_s``."""
    return floor((end_s - now_s) / step_s * SLACK)


def joined(
    groups: Iterable[Group], now_s: float, step_s: float, steps: Steps
) -> tuple[Group, int] | None:
    """Return the group that gives a peer most to do, and how much; None if none fits.

    Of groups that give the same, the newest.
    """
    best: tuple[Group, int] | None = None
    for group in groups:
        count = steps_until(group.expected_s, now_s, step_s)
        if steps.least <= count <= steps.most and (best is None or count >= best[1]):
            best = group, count
    return best


def opening_steps(
    groups: Sequence[Group],
    now_s: float,
    step_s: float,
    speeds: Mapping[PeerId, float],
    steps: Steps,
) -> int:
    """Return the batches of a peer that fits into no group and opens its own.

    It should end with the next round of a group there is: when that one's fastest
    peer, starting anew at the latest time, will have done the most batches.
    """
    best = -1
    for group in groups:
        if now_s < group.latest_s:
            fastest_s = min(speeds[p] for p in group.members())
            again_s = group.latest_s + fastest_s * steps.most
            count = steps_until(again_s, now_s, step_s)
            best = max(best, count) if count <= steps.most else best
    return steps.most if best < 0 else max(best, steps.least)


def opened(
    number: int,
    peer: PeerId,
    now_s: float,
    busy_s: float,
    latest_factor: float,
    patience_s: float,
) -> Group:
    """Return a group of ``peer`` alone, which should be ``busy_s`` at work."""
    expected_s = now_s + busy_s
    latest_s = min(now_s + busy_s * latest_factor, expected_s + patience_s)
    return Group(number, expected_s, latest_s, frozenset([peer]))
