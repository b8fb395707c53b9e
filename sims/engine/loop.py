"""The reference engine: one job after the other, in this process."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from clients.trainers.method import reproducible
from fedcore.closing import Closing
from fedcore.strategy import PeerId, Update
from fedcore.task import Task, Trainer, steps_of
from sims.engine.protocol import Job, Unit


class Blame(AbstractContextManager[None]):
    """Adds to an error raised inside the block whose training it was."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"while training {self._peer}")


@dataclass(frozen=True)
class Loop(Closing):
    """Call ``trainer`` job by job."""

    trainer: Trainer
    tasks: Mapping[PeerId, Task]

    def run(self, jobs: Sequence[Job]) -> list[Update]:
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> Update:
        with Blame(job.peer), reproducible():
            return self.trainer(self.tasks[job.peer], job.work, job.peer)

    def units(self, jobs: Sequence[Job]) -> list[Unit]:
        """Return what must be run together: each job on its own."""
        return [Unit([i], self._steps(job)) for i, job in enumerate(jobs)]

    def _steps(self, job: Job) -> int:
        if job.work.steps:
            return job.work.steps
        with Blame(job.peer):
            return steps_of(self.tasks[job.peer], job.work)

    def close(self) -> None:
        return None
