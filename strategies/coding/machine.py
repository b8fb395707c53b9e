"""Rounds of coded work as a pure machine: what is asked, and when it is enough.

A job's data are cut into ``units`` equal ones. A part of a job is what a worker does
for it at once: some units with coefficients (``share``). A plain part is done when all
workers have answered it, a coded one when its code is covered.

A machine goes from round to round by the workers that answered in time, as bit masks.
Whether a round may end is one rule for all machines (``enough``): if all workers answer
from now on, will every job begun so far be done within its delay?
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from operator import or_
from typing import Protocol, TypeAlias

from strategies.coding.codes import Code, Mask

Done: TypeAlias = tuple[Mask, ...]  # of one job: who has answered each part
Share: TypeAlias = tuple[tuple[int, float], ...]  # units and their coefficients


@dataclass(frozen=True, slots=True)
class Piece:
    """What some workers do in one slot of a round.

    Attributes:
        slot: place in the round, from 0.
        age: rounds since the job began; the job is ``round - age``.
        part: of the job, from 0.
        workers: who does it.
    """

    slot: int
    age: int
    part: int
    workers: Mask


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a machine is.

    Attributes:
        round: the one under way, from 0; its job began with it.
        done: of the jobs that began ``age`` rounds ago, 0 to ``delay``.
    """

    round: int
    done: tuple[Done, ...]


NOT_BEGUN = Progress(0, ())


class Schedule(Protocol):
    """One scheme for a known number of workers."""

    @property
    def workers(self) -> int: ...

    @property
    def delay(self) -> int:
        """T: a job begun in round t is done by the end of round t + T."""
        ...

    @property
    def parts(self) -> int: ...

    @property
    def units(self) -> int:
        """Equal pieces into which a job's data are cut."""
        ...

    @property
    def per_round(self) -> int:
        """Units that each worker computes in a round."""
        ...

    def code(self, part: int) -> Code | None:
        """Return the code of ``part``; None if it is plain."""
        ...

    def plan(self, progress: Progress) -> tuple[Piece, ...]:
        """Return what is done in this round; a worker has one piece in a slot."""
        ...

    def share(self, worker: int, part: int) -> Share:
        """Return the units of ``worker`` in ``part`` and their coefficients."""
        ...


def begin(schedule: Schedule) -> Progress:
    """Return the machine in round 0; the jobs before it count as done."""
    full = (everybody(schedule),) * schedule.parts
    return Progress(0, ((0,) * schedule.parts, *(full,) * schedule.delay))


def everybody(schedule: Schedule) -> Mask:
    """Return the mask of all workers."""
    return (1 << schedule.workers) - 1


def load_of(schedule: Schedule) -> float:
    """Return the share of a job's data that each worker computes in a round."""
    return schedule.per_round / schedule.units


def heard(schedule: Schedule, progress: Progress, present: Mask) -> Progress:
    """Return the machine after ``present`` answered what this round asks of them."""
    done = [list(job) for job in progress.done]
    for piece in schedule.plan(progress):
        done[piece.age][piece.part] |= piece.workers & present
    return replace(progress, done=tuple(map(tuple, done)))


def following(schedule: Schedule, progress: Progress) -> Progress:
    """Return the machine in the next round; the job of age ``delay`` is dropped."""
    done = ((0,) * schedule.parts, *progress.done[: schedule.delay])
    return Progress(progress.round + 1, done)


def finished(schedule: Schedule, job: Done) -> bool:
    """Return whether all parts of ``job`` are there."""
    return all(covered(schedule, part, mask) for part, mask in enumerate(job))


def covered(schedule: Schedule, part: int, present: Mask) -> bool:
    """Return whether the answers of ``present`` give all of ``part``."""
    code = schedule.code(part)
    return present == everybody(schedule) if code is None else code.covers(present)


def enough(schedule: Schedule, progress: Progress, present: Mask) -> bool:
    """Return whether this round may end with the answers of ``present``.

    If so, every job begun so far can still be done within its delay; it will be if
    later rounds wait until they may end, too.
    """
    all_of_them = everybody(schedule)
    for ahead in range(schedule.delay + 1):
        here = all_of_them if ahead else present
        progress = heard(schedule, progress, here)
        if not finished(schedule, progress.done[-1]):
            return False
        progress = following(schedule, progress)
    return True


def waits(enough: Callable[[Mask], bool], first: Sequence[Mask], least: int) -> int:
    """Return for how many answers to wait, >= ``least``, until it is ``enough``.

    More answers never do harm, so a search by halves finds the fewest.

    Args:
        enough: whether these answers are.
        first: who has answered after 0, 1, ... answers; all of them are enough.
        least: answers that are there anyway.
    """
    if enough(first[least]):
        return least
    low, high = least, len(first) - 1  # not enough, and enough
    while high - low > 1:
        middle = (low + high) // 2
        if enough(first[middle]):
            high = middle
        else:
            low = middle
    return high


def mask_of(workers: Sequence[int]) -> Mask:
    """Return the mask of ``workers``."""
    mask = 0
    for worker in workers:
        mask |= 1 << worker
    return mask


def round_times(
    schedule: Schedule, times: Sequence[Sequence[float]], slack: float
) -> Iterator[float]:
    """Yield how long each round takes, by the times at which workers answer.

    A round ends ``1 + slack`` times as long after its start as its first answer came,
    or with its last answer; or later, when it is ``enough``.

    Args:
        schedule: who does what.
        times: (rounds, n), seconds from a round's start to each worker's answer.
        slack: μ, >= 0.
    """
    progress = begin(schedule)
    for row in times:
        order = sorted(range(len(row)), key=row.__getitem__)
        first = list(accumulate((1 << i for i in order), or_, initial=0))
        patience = (1 + slack) * row[order[0]]
        least = sum(t <= patience for t in row)
        count = waits(partial(enough, schedule, progress), first, least)
        late = patience if least < len(order) else 0.0
        yield max(late, row[order[count - 1]])
        progress = following(schedule, heard(schedule, progress, first[count]))
