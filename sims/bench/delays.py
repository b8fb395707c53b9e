"""How long 256 workers of a cloud take to answer: drawn by published facts, or read.

The traces behind the paper (Krishnan et al., ICLR 2023) may not be passed on, so we
draw some that agree with what is known of them: median and 99th percentile of all
answers, how many workers of a round take more than twice as long as the fastest, and
how many of their bursts last one round.
"""

import csv
from dataclasses import dataclass
from io import StringIO
from math import exp, isfinite, log
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConfigError
from sims.draws import normals, uniforms
from sims.world.network import Pipe
from sims.world.site import Site, at, seconds

Delays: TypeAlias = npt.NDArray[np.float64]  # seconds, (rounds, workers)

MEDIAN_S, SPREAD = 0.637, 0.06  # of workers that do not straggle, lognormal
USUAL, USUAL_SPREAD = 14.0, 0.65  # stragglers of 256 in a round, lognormal
FEWEST, MOST = 4, 58
AGAIN = 0.03  # of stragglers straggle in the next round too
TAIL, SHAPE = 0.22, 1.5  # of what they take beyond twice the fastest: Weibull
SLOW = 2.0
MOST_CELLS = 10_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a trace.

    Attributes:
        median_s: of all answers.
        p99_s: 99th percentile of all answers.
        fewest: stragglers of the round that has fewest.
        most: stragglers of the round that has most.
        single: share of bursts that last one round.
    """

    median_s: float
    p99_s: float
    fewest: int
    most: int
    single: float


PUBLISHED = Facts(0.644, 1.45, 4, 58, 0.91)


def facts_of(delays: Delays) -> Facts:
    """Return the facts of ``delays``."""
    slow = delays > SLOW * delays.min(1, keepdims=True)
    counts = slow.sum(1)
    edge = np.zeros((1, slow.shape[1]), dtype=bool)
    begins = slow & ~np.vstack([edge, slow[:-1]])
    ends_at_once = begins & ~np.vstack([slow[1:], edge])
    single = float(ends_at_once.sum() / max(1, begins.sum()))
    median_s, p99_s = np.percentile(delays, [50, 99]).tolist()
    return Facts(median_s, p99_s, int(counts.min()), int(counts.max()), single)


def drawn(rounds: int, workers: int = 256, seed: int = 0) -> Delays:
    """Return delays that agree with ``PUBLISHED``, (rounds, workers)."""
    size, slow = rounds * workers, np.zeros(workers, dtype=bool)
    calm = MEDIAN_S * np.exp(SPREAD * normals(size, "calm", seed))
    calm = calm.reshape(rounds, workers)
    excess = TAIL * (-np.log(uniforms(size, "excess", seed))) ** (1 / SHAPE)
    late = SLOW * calm.min(1, keepdims=True) * (1 + excess.reshape(rounds, workers))
    count = USUAL * np.exp(USUAL_SPREAD * normals(rounds, "stragglers", seed))
    count = count.clip(FEWEST, MOST) * workers / 256
    lot = uniforms(size, "lot", seed).reshape(rounds, workers)
    result = calm.copy()
    for t in range(rounds):
        slow &= lot[t] < AGAIN
        more = max(0, round(count[t]) - int(slow.sum()))
        others = np.flatnonzero(~slow)
        slow[others[np.argsort(lot[t][others])[::-1][:more]]] = True
        result[t, slow] = late[t, slow]
    return result


def from_csv(file: str | Path) -> Delays:
    """Return the delays in ``file``: a line a round, seconds of each worker, no header.

    Raises:
        ConfigError: the file cannot be read, is no table, or holds what is no delay.
    """
    try:
        lines = [line for line in csv.reader(StringIO(Path(file).read_text())) if line]
        rows = [[float(cell) for cell in line] for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not rows or len({len(row) for row in rows}) > 1:
        raise ConfigError(f"{file}: every line must hold one delay for every worker")
    if not all(isfinite(cell) and cell > 0 for row in rows for cell in row):
        raise ConfigError(f"{file}: delays are seconds, finite and above 0")
    return np.array(rows)


@dataclass(frozen=True, slots=True)
class Cloud:
    """A ``Network`` with such delays, for federations on the virtual clock.

    Attributes:
        share: of works whose answer straggles.
    """

    share: float = 0.07

    def pipe(self, site: Site, now_s: float) -> Pipe:
        """Return the connection for work sent at ``now_s``: half the delay each way."""
        delay_s = site.lognormal(MEDIAN_S, SPREAD, "calm", at(now_s))
        if site.uniform("straggles", at(now_s)) < self.share:
            beyond = (-log(site.uniform("excess", at(now_s)))) ** (1 / SHAPE)
            fastest_s = MEDIAN_S * exp(-2 * SPREAD)
            delay_s = SLOW * fastest_s * (1 + TAIL * beyond)
        return Pipe(latency_s=seconds(delay_s / 2))
