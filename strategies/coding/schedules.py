"""Gradient coding, SR-SGC and M-SGC: who computes what in which round.

Source:
    Krishnan, Ramkumar, Khisti et al., "Sequential Gradient Coding For Straggler
    Mitigation", ICLR 2023, sections 3.1 to 3.3. https://arxiv.org/abs/2211.13802

Notation, paper -> here:
    n              workers                              ``workers``
    job-t          one gradient, begun in round t       job ``t``
    T              rounds that a job may take more      ``delay``
    B, W, λ        at most λ workers straggle within W rounds, and each of them within
                   B rounds in a row                    ``burst, window, stragglers``
    mini-task      what a worker does in one slot       ``Piece``
    D_1, D_2       data computed plainly, and coded     the first parts, and the rest

Departures:
    The paper waits for everybody as soon as a round breaks the (B, W, λ) pattern; we
    wait only until ``enough`` holds (``strategies.coding.machine``). Both let every
    round of such a pattern end at once; ours lets others end, too, that do no harm.

    SR-SGC repeats what is wanting to decode, not the first v - s of the missing tasks;
    for a code in one group that is the same. Uncoded training is ``Once`` with s = 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedcore.errors import ConfigError
from strategies.coding.codes import Code, Kind, code_of
from strategies.coding.machine import Done, Piece, Progress, Share, everybody
from strategies.limits import counts


@dataclass(frozen=True, slots=True)
class Once:
    """Gradient coding: every job in its own round, for the loss of a few workers.

    Attributes:
        workers: n; 0 until they are known.
        stragglers: s, workers that may stay away.
        kind: of the code.
    """

    workers: int = 0
    stragglers: int = 1
    kind: Kind = "grouped"
    delay = 0
    parts = 1

    def __post_init__(self) -> None:
        counts(0, stragglers=self.stragglers)
        if self.workers:
            self.code(0)

    @property
    def units(self) -> int:
        return self.workers

    @property
    def per_round(self) -> int:
        return self.stragglers + 1

    def code(self, part: int) -> Code:
        return code_of(self.workers, self.stragglers, self.kind)

    def plan(self, progress: Progress) -> tuple[Piece, ...]:
        return (Piece(0, 0, 0, everybody(self)),)

    def share(self, worker: int, part: int) -> Share:
        return self.code(part).row(worker)


@dataclass(frozen=True, slots=True)
class Repeated:
    """SR-SGC: gradient coding whose missing tasks are repeated ``burst`` rounds later.

    Attributes:
        workers: n; 0 until they are known.
        burst: B, rounds in a row that a worker may straggle, >= 1.
        window: W, rounds in which so much may go wrong; B divides W - 1.
        stragglers: λ, workers that may straggle within a window.
        kind: of the code, for s = ceil(B λ / (W - 1 + B)).
    """

    workers: int = 0
    burst: int = 1
    window: int = 2
    stragglers: int = 2
    kind: Kind = "grouped"
    parts = 1

    def __post_init__(self) -> None:
        _check_pattern(self.burst, self.window, self.stragglers, self.workers)
        if (self.window - 1) % self.burst:
            raise ConfigError(
                f"burst must divide window - 1: burst {self.burst}, window "
                f"{self.window}; the nearest window is "
                f"{max(1, round((self.window - 1) / self.burst)) * self.burst + 1}"
            )
        if self.workers:
            self.code(0)

    @property
    def delay(self) -> int:
        return self.burst

    @property
    def units(self) -> int:
        return self.workers

    @property
    def spare(self) -> int:
        """S of the code: answers that a job may go without for good."""
        return -(-self.burst * self.stragglers // (self.window - 1 + self.burst))

    @property
    def per_round(self) -> int:
        return self.spare + 1

    def code(self, part: int) -> Code:
        return code_of(self.workers, self.spare, self.kind)

    def plan(self, progress: Progress) -> tuple[Piece, ...]:
        again = self.code(0).wanting(progress.done[self.burst][0])
        fresh = everybody(self) & ~again
        pieces = (Piece(0, 0, 0, fresh), Piece(0, self.burst, 0, again))
        return pieces if again else pieces[:1]

    def share(self, worker: int, part: int) -> Share:
        return self.code(part).row(worker)


@dataclass(frozen=True, slots=True)
class Multiplexed:
    """M-SGC: most data are computed plainly and repeated when lost, the rest coded.

    Attributes:
        workers: n; 0 until they are known.
        burst: B, rounds in a row that a worker may straggle, in [1, W - 1].
        window: W, rounds in which so much may go wrong.
        stragglers: λ, workers that may straggle within a window; n codes nothing.
        kind: of the code of each of the ``burst`` groups of coded data.
    """

    workers: int = 0
    burst: int = 1
    window: int = 2
    stragglers: int = 2
    kind: Kind = "grouped"

    def __post_init__(self) -> None:
        _check_pattern(self.burst, self.window, self.stragglers, self.workers)
        if self.burst >= self.window:
            raise ConfigError(
                f"burst must be below window: burst {self.burst}, window {self.window}"
            )
        if self.workers and not self._plain:
            code_of(self.workers, self.stragglers, self.kind)

    @property
    def delay(self) -> int:
        return self.window - 2 + self.burst

    @property
    def _plain(self) -> bool:
        return self.stragglers >= self.workers > 0

    @property
    def parts(self) -> int:
        return self.window - 1 + (0 if self._plain else self.burst)

    @property
    def _grain(self) -> int:
        """Units of a plain part: as many as a coded one has, so both cost the same."""
        return 1 if self._plain else self.stragglers + 1

    @property
    def units(self) -> int:
        coded = 0 if self._plain else self.burst
        return self.workers * ((self.window - 1) * self._grain + coded)

    @property
    def per_round(self) -> int:
        return (self.window - 1 + self.burst) * self._grain

    def code(self, part: int) -> Code | None:
        if part < self.window - 1:
            return None
        return code_of(self.workers, self.stragglers, self.kind)

    def plan(self, progress: Progress) -> tuple[Piece, ...]:
        done, everyone, first = progress.done, everybody(self), self.window - 1
        fresh = [Piece(a, a, a, everyone & ~done[a][a]) for a in range(first)]
        later = range(first, first + self.burst)
        last = [piece for age in later for piece in self._repeats(age, done[age])]
        return tuple(piece for piece in (*fresh, *last) if piece.workers)

    def _repeats(self, age: int, job: Done) -> Iterator[Piece]:
        """Yield the lost plain parts, one a worker, and the coded part for the rest."""
        free = everybody(self)
        for part in range(self.window - 1):
            yield Piece(age, age, part, free & ~job[part])
            free &= job[part]
        if not self._plain:
            yield Piece(age, age, age, free & ~job[age])

    def share(self, worker: int, part: int) -> Share:
        if part < self.window - 1:
            first = (worker * (self.window - 1) + part) * self._grain
            return tuple((first + k, 1.0) for k in range(self._grain))
        plain = self.workers * (self.window - 1) * self._grain
        first = plain + (part - self.window + 1) * self.workers
        code = code_of(self.workers, self.stragglers, self.kind)
        return tuple((first + chunk, x) for chunk, x in code.row(worker))


SCHEDULES: dict[str, type] = {
    "gradient-coding": Once,
    "m-sgc": Multiplexed,
    "sr-sgc": Repeated,
}


def _check_pattern(burst: int, window: int, stragglers: int, workers: int) -> None:
    counts(1, burst=burst)
    counts(2, window=window)
    counts(0, stragglers=stragglers)
    if workers and stragglers > workers:
        raise ConfigError(f"{stragglers} stragglers among {workers} workers")
