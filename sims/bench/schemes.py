"""Coding schemes at their best parameters on a trace of delays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.errors import ConfigError
from sims.bench.delays import Delays
from strategies.coding.codes import Kind
from strategies.coding.machine import Schedule, load_of, round_times
from strategies.coding.schedules import Multiplexed, Once, Repeated

UNCODED, GC, SR, M = "uncoded", "GC", "SR-SGC", "M-SGC"
OURS = ", ours"
SLACKS = (0.0, 0.25, 0.5, 1.0)
QUICK_SLACKS = (0.0, 0.25)
STRAGGLERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64)
QUICK_STRAGGLERS = (3, 8, 16, 48)
PATTERNS = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 5))  # B and W


@dataclass(frozen=True, slots=True)
class Best:
    """A scheme at its best.

    Attributes:
        job_s: mean seconds a job, the rounds of the last jobs' delay included.
        schedule: with the parameters that gave it.
        slack: μ.
    """

    job_s: float
    schedule: Schedule
    slack: float

    @property
    def told(self) -> str:
        """The parameters in words."""
        names = {"stragglers": "s", "burst": "B", "window": "W"}
        if not isinstance(self.schedule, Once):
            names["stragglers"] = "λ"
        own = {v: getattr(self.schedule, k, None) for k, v in names.items()}
        values = ", ".join(f"{k} {v}" for k, v in own.items() if v is not None)
        return f"{values}, μ {self.slack:g}, load {load_of(self.schedule):.4f}"


def job_s(schedule: Schedule, delays: Delays, cost_s: float, slack: float) -> float:
    """Return mean seconds a job on ``delays``.

    Args:
        schedule: who does what.
        delays: (rounds, n); there are rounds - delay jobs.
        cost_s: seconds that one worker would compute for one whole job.
        slack: μ.
    """
    times = (delays + cost_s * load_of(schedule)).tolist()
    jobs = len(times) - schedule.delay
    return sum(round_times(schedule, times, slack)) / jobs


def candidates(scheme: str, workers: int, kind: Kind, quick: bool) -> list[Schedule]:
    """Return the schedules among which the best of ``scheme`` is looked for."""
    most = 16 if kind == "grouped" else 64  # more never helped
    tries = QUICK_STRAGGLERS if quick else STRAGGLERS
    few = [s for s in tries if s <= min(most, workers - 1)]
    if scheme == UNCODED:
        return [Once(workers, 0)]
    if scheme == GC:
        return [Once(workers, s, kind) for s in few]
    return list(_made(Repeated if scheme == SR else Multiplexed, workers, few, kind))


def _made(
    make: Any, workers: int, stragglers: Sequence[int], kind: Kind
) -> Iterator[Schedule]:
    for burst, window in PATTERNS:
        for most in stragglers:
            try:
                yield make(workers, burst, window, most, kind)
            except ConfigError:
                continue  # no such code


def best(
    schedules: Sequence[Schedule],
    delays: Delays,
    cost_s: float,
    slacks: Sequence[float] = (1.0,),
) -> Best:
    """Return the quickest of ``schedules`` on ``delays``, in hindsight."""
    found = [
        Best(job_s(s, delays, cost_s, slack), s, slack)
        for s in schedules
        for slack in slacks
    ]
    return min(found, key=lambda b: b.job_s)


def table(delays: Delays, cost_s: float, quick: bool = False) -> Mapping[str, Best]:
    """Return every scheme at its best on ``delays``; arguments as of ``job_s``.

    Plain names follow the papers: answers are counted, μ is 1. Those of ours have
    grouped codes, and the μ that is best.
    """
    slacks, workers = QUICK_SLACKS if quick else SLACKS, delays.shape[1]
    found = {}
    for scheme in (UNCODED, GC, SR, M):
        plain = candidates(scheme, workers, "cyclic", quick)
        found[scheme] = best(plain, delays, cost_s)
    for scheme in (GC, SR, M):
        grouped = candidates(scheme, workers, "grouped", quick)
        found[scheme + OURS] = best(grouped, delays, cost_s, slacks)
    return found


def crossing(
    costs: Sequence[float], ours: Sequence[float], other: Sequence[float]
) -> float | None:
    """Return the cost from which ``ours`` stays below ``other``; None if never."""
    gap = np.array(ours) - np.array(other)
    if gap[-1] >= 0:
        return None
    above = np.flatnonzero(gap >= 0)
    if not above.size:
        return costs[0]
    i = int(above[-1])
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(costs[i] + share * (costs[i + 1] - costs[i]))
