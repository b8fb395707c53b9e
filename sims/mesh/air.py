"""What lies between hosts: delays, narrow lines, noise, and cuts that heal."""

import random
from dataclasses import dataclass

from fedcore.seeds import seed_of
from sims.mesh.faults import Faults
from sims.mesh.host import Host
from sims.mesh.trace import Trace

LATE_S = 3.0


@dataclass(frozen=True, slots=True)
class Line:
    """How one host reaches another.

    Attributes:
        delay_s: least time from one to the other.
        rng: its dice; the way back has others.
    """

    delay_s: float
    rng: random.Random


class Air:
    """All lines of a world, and what is in the way of them.

    Args:
        seed: of the world.
        noise: what happens to single messages.
        trace: counts what happens.
    """

    def __init__(self, seed: int, noise: Faults, trace: Trace) -> None:
        self.seed, self.noise, self.trace = seed, noise, trace
        self.cuts: dict[int, tuple[frozenset[int], int]] = {}
        self._lines: dict[tuple[int, int], Line] = {}

    def line(self, a: Host, b: Host) -> Line:
        """Return the line from ``a`` to ``b``."""
        line = self._lines.get((a.index, b.index))
        if line is None:
            low, high = sorted((a.index, b.index))
            both = random.Random(seed_of("line", self.seed, low, high))
            delay_s = 10 ** both.uniform(-3.0, -0.8)
            rng = random.Random(seed_of("line to", self.seed, a.index, b.index))
            line = self._lines[a.index, b.index] = Line(delay_s, rng)
        return line

    def reaches(self, a: Host, b: Host) -> bool:
        """Return whether no cut keeps messages of ``a`` from ``b``."""
        return not any(
            (a.index in side) != (b.index in side)
            and (way == 0 or (way > 0) == (a.index in side))
            for side, way in self.cuts.values()
        )

    def meet(self, a: Host, b: Host) -> bool:
        """Return whether nothing is between ``a`` and ``b``, both ways."""
        return self.reaches(a, b) and self.reaches(b, a)

    def waits_s(
        self, a: Host, b: Host, size_bytes: int, now_s: float, *, once: bool
    ) -> list[float]:
        """Return how long each copy of a message from ``a`` to ``b`` is under way.

        Args:
            a: who sends; its line up is busy until it has sent this.
            b: who receives.
            size_bytes: how much.
            now_s: the true time.
            once: it never comes twice.
        """
        line, noise = self.line(a, b), self.noise
        dice = line.rng.random
        if dice() < noise.loss:
            self.trace.count("lost")
            return []
        a.free_s = max(a.free_s, now_s) + size_bytes / a.bytes_per_s
        copies = 1 + (dice() < noise.duplicate and not once)
        self.trace.count("duplicated", copies - 1)
        return [a.free_s - now_s + self._way_s(line) for _ in range(copies)]

    def _way_s(self, line: Line) -> float:
        wait_s = line.delay_s + line.rng.expovariate(5 / line.delay_s)
        if line.rng.random() >= self.noise.late:
            return wait_s
        self.trace.count("late")
        return wait_s + line.rng.uniform(0, LATE_S)
