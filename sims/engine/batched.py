"""Small models trained side by side: one kernel call for a whole cohort.

A model of a few thousand numbers spends its time in calls, not in arithmetic. The
trainer's fused path takes many such models through each call, and gives each the
bits that it gets alone (``clients.trainers.fused``), so grouping is only a matter
of speed.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from clients.trainers.plan import Plan
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer, steps_of
from sims.engine.loop import Blame, Loop
from sims.engine.protocol import Job

COHORT = 25  # models at most; more gain little, and other workers want some
COHORT_NUMBERS = 1 << 19  # parameters of a cohort: 2 MiB; more leave the cache


@runtime_checkable
class Together(Protocol):
    """A trainer that can train several peers at once."""

    def cohort(self, task: Task, work: Work) -> Plan | None: ...

    def together(
        self, jobs: Sequence[tuple[Task, Work, PeerId]], plan: Plan
    ) -> list[Update]: ...


class Batched:
    """Train jobs in cohorts where the trainer can, the others one by one."""

    def __init__(self, trainer: Trainer, tasks: Mapping[PeerId, Task]) -> None:
        self.tasks = tasks
        self._alone = Loop(trainer, tasks)
        self._together = trainer if isinstance(trainer, Together) else None

    def run(self, jobs: Sequence[Job]) -> list[Update]:
        updates: dict[int, Update] = {}
        for unit, plan in self._groups(jobs):
            done = self._unit([jobs[i] for i in unit], plan)
            updates |= zip(unit, done, strict=True)
        return [updates[i] for i in range(len(jobs))]

    def _unit(self, jobs: Sequence[Job], plan: Plan | None) -> list[Update]:
        if plan is None or self._together is None or len(jobs) == 1:
            return self._alone.run(jobs)
        with Blame(", ".join(j.peer for j in jobs)):
            told = [(self.tasks[j.peer], j.work, j.peer) for j in jobs]
            return self._together.together(told, plan)

    def units(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return which jobs, by index, run together; decided by the jobs alone."""
        return [unit for unit, _ in self._groups(jobs)]

    def _groups(self, jobs: Sequence[Job]) -> list[tuple[list[int], Plan | None]]:
        """Return units with their plans; in each, the longest work comes first."""
        groups: dict[tuple[Plan | None, int], list[tuple[int, int]]] = {}
        for i, job in enumerate(jobs):
            steps, plan = self._look(job)
            groups.setdefault((plan, job.work.version), []).append((-steps, i))
        units: list[tuple[list[int], Plan | None]] = []
        for (plan, _), members in groups.items():
            order = [i for _, i in sorted(members)]
            units += [(unit, plan) for unit in _even(order, cohort_size(plan))]
        return units

    def _look(self, job: Job) -> tuple[int, Plan | None]:
        """Return the steps of ``job``, and the plan if it may join a cohort."""
        if self._together is None:
            return 0, None
        with Blame(job.peer):
            task = self.tasks[job.peer]
            return steps_of(task, job.work), self._together.cohort(task, job.work)

    def close(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def cohort_size(plan: Plan | None) -> int:
    """Return how many models of ``plan`` train well together; 1 if there is none."""
    if plan is None:
        return 1
    return max(1, min(COHORT, COHORT_NUMBERS // plan.numbers))


def _even(order: list[int], most: int) -> list[list[int]]:
    """Return ``order`` cut into as few parts of at most ``most`` as even as can be."""
    count = -(-len(order) // most)
    ends = [len(order) * k // count for k in range(count + 1)]
    return [order[a:b] for a, b in pairwise(ends)]
