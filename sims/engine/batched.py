"""Small models trained side by side: one kernel call for a whole cohort.

A model of a few thousand numbers spends its time in calls, not in arithmetic. The
trainer's fused path takes many such models through each call, and gives each the
bits that it gets alone (``clients.trainers.fused``), so grouping is only a matter
of speed.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

from clients.trainers.plan import Plan
from fedcore.closing import Closing
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer, steps_of
from sims.engine.loop import Blame, Loop
from sims.engine.protocol import Job, Unit

T = TypeVar("T")
COHORT = 25  # models at most; more gain little, and other workers want some
COHORT_NUMBERS = 1 << 19  # parameters of a cohort: 2 MiB; more leave the cache


@runtime_checkable
class Together(Protocol):
    """A trainer that can train several peers at once."""

    def cohort(self, task: Task, work: Work) -> Plan | None: ...

    def together(
        self, jobs: Sequence[tuple[Task, Work, PeerId]], plan: Plan
    ) -> list[Update]: ...


class Batched(Closing):
    """Train jobs in cohorts where the trainer can, the others one by one."""

    def __init__(self, trainer: Trainer, tasks: Mapping[PeerId, Task]) -> None:
        self.tasks = tasks
        self._alone = Loop(trainer, tasks)
        self._together = trainer if isinstance(trainer, Together) else None

    def run(self, jobs: Sequence[Job]) -> list[Update]:
        updates: dict[int, Update] = {}
        for unit, plan in self._groups(jobs):
            done = self._unit([jobs[i] for i in unit.jobs], plan)
            updates |= zip(unit.jobs, done, strict=True)
        return [updates[i] for i in range(len(jobs))]

    def _unit(self, jobs: Sequence[Job], plan: Plan | None) -> list[Update]:
        if plan is None or self._together is None or len(jobs) == 1:
            return self._alone.run(jobs)
        with Blame(", ".join(j.peer for j in jobs)):
            told = [(self.tasks[j.peer], j.work, j.peer) for j in jobs]
            return self._together.together(told, plan)

    def units(self, jobs: Sequence[Job]) -> list[Unit]:
        """Return which jobs run together; decided by the jobs alone."""
        return [unit for unit, _ in self._groups(jobs)]

    def _groups(self, jobs: Sequence[Job]) -> list[tuple[Unit, Plan | None]]:
        """Return units with their plans; in each, the longest work comes first."""
        if self._together is None:
            return [(unit, None) for unit in self._alone.units(jobs)]
        plans: dict[int, Plan | None] = {}
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i, job in enumerate(jobs):
            with Blame(job.peer):
                task = self.tasks[job.peer]
                plan = self._together.cohort(task, job.work)
                steps = steps_of(task, job.work)
            plans[id(plan)] = plan
            groups.setdefault((id(plan), job.work.version), []).append((-steps, i))
        return [
            (Unit([i for _, i in part], -sum(cost for cost, _ in part)), plans[key])
            for (key, _), members in groups.items()
            for part in _even(sorted(members), cohort_size(plans[key]))
        ]

    def close(self) -> None:
        return None


def cohort_size(plan: Plan | None) -> int:
    """Return how many models of ``plan`` train well together; 1 if there is none."""
    if plan is None:
        return 1
    return max(1, min(COHORT, COHORT_NUMBERS // plan.numbers))


def _even(members: list[T], most: int) -> list[list[T]]:
    """Return ``members`` cut into the fewest parts of at most ``most``, evenly."""
    count = -(-len(members) // most)
    ends = [len(members) * k // count for k in range(count + 1)]
    return [members[a:b] for a, b in pairwise(ends)]
