"""What shared directions cost: the pool against the papers' seeds and against memory.

The papers' way, at its best, writes a seeded stream of normal numbers into one buffer
and adds it in place, once for each of the K directions. The limit is one pass that
reads and writes every weight in place.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.pool import Pool, expand, project, walk
from fedcore.seeds import words
from sims.bench.frame import Options, Row, middle, skipped, versus

QUICK = (1_000_000,)
FULL = (1_000_000, 20_000_000, 135_000_000)
SIZES = (1024, 4096)  # of the pool
NAMES = ("expand", "project")
REPLAYS = 3  # directions that are measured, of the K that are reckoned
TURNS = 7
SCALE = 1e-6


def rows(options: Options) -> Iterator[Row]:
    """Yield what expanding, projecting and one direction cost, on one thread."""
    numels = QUICK if options.quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for numel in numels:
            options.say(f"directions: {numel / 1e6:.0f} M weights")
            yield from Stage(numel, torch.device("cpu")).rows()
    finally:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        for numel in numels:
            yield from Stage(numel, torch.device("cuda")).rows()
    else:
        yield skipped("pool on CUDA", f"K = {SIZES[0]}", "ms", "no CUDA device")


@dataclass(frozen=True, slots=True)
class Stage:
    """Some weights on a device, and what is measured there."""

    numel: int
    device: torch.device

    def rows(self) -> Iterator[Row]:
        """Measure, and yield the rows of every size of pool."""
        weights = torch.full((self.numel,), 1e-3, device=self.device)
        tree, where = {"w": weights}, "" if self.device.type == "cpu" else " on CUDA"
        limit = self.ms(lambda: weights.mul_(1.0))
        replays = self.replays(weights)
        for size in SIZES:
            pool = Pool(size, seed=1)
            work = f"{self.numel / 1e6:.0f} M weights, K = {size}"
            jobs: tuple[Callable[[], object], ...] = (
                partial(expand, pool, _line(size), SCALE, tree),
                partial(project, pool, tree),
            )
            for what, job, replay in zip(NAMES, jobs, replays, strict=True):
                ours = self.ms(job)
                yield from _two(what + where, work, ours, replay * size, limit)
        yield self.one(tree, where)

    def replays(self, weights: Tensor) -> tuple[float, float]:
        """Return the milliseconds to add one normal direction, and to project on it."""
        noise, source = torch.empty_like(weights), torch.Generator(self.device)

        def drawn() -> Tensor:
            return noise.normal_(generator=source.manual_seed(1))

        added = self.ms(lambda: weights.add_(drawn(), alpha=0), REPLAYS)
        return added, self.ms(lambda: drawn().dot(weights), REPLAYS)

    def one(self, tree: Params, where: str) -> Row:
        """Return the row of one direction, applied in place."""
        source = torch.Generator(self.device)
        size, weights = SIZES[0], tree["w"]
        step = walk(Pool(size, seed=1), tree, tree, _line(size) * 0, 1.0)

        def drawn() -> None:
            noise = torch.randn(self.numel, generator=source, device=self.device)
            weights.add_(noise, alpha=1e-9)

        ours, other = self.ms(lambda: step.at(3, 1e-9)), self.ms(drawn)
        work = f"{self.numel / 1e6:.0f} M weights, K = {size}"
        note = "other: torch.randn into new memory, then added in place; goal 4"
        name = f"one direction{where} vs randn + axpy"
        return versus(name, work, ours, other, "ms", note)

    def ms(self, do: Callable[[], object], turns: int = TURNS) -> float:
        """Return the median milliseconds of ``do`` after a first time."""
        taken = []
        for _ in range(turns + 1):
            self.settle()
            start = time.perf_counter()
            do()
            self.settle()
            taken.append(time.perf_counter() - start)
        return middle(taken[1:]) * 1e3

    def settle(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _two(name: str, work: str, ours: float, replays: float, limit: float) -> list[Row]:
    reckoned = f"other: {REPLAYS} directions measured, the rest reckoned"
    passed = "other: every weight read and written once, in place; goal 0.125 at 20 M"
    return [
        versus(f"{name} vs K replays", work, ours, replays, "ms", reckoned),
        versus(f"{name} vs one pass", work, ours, limit, "ms", passed),
    ]


def _line(size: int) -> Tensor:
    raw = (words(size, "bench directions", size) >> np.uint64(30)).astype(np.int64)
    return torch.from_numpy(raw).unsqueeze(0) - (1 << 33)  # (1, K), -2 .. 2
