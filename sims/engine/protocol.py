"""What a simulation engine is: many peers' local trainings, done quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from fedcore.strategy import PeerId, Update, Work


@dataclass(frozen=True, slots=True)
class Job:
    """One local training: ``peer`` does ``work``."""

    peer: PeerId
    work: Work


@dataclass(frozen=True, slots=True)
class Unit:
    """Jobs that go together, in one process.

    Attributes:
        jobs: their indices in the batch.
        steps: batches to process in all of them; the cost.
    """

    jobs: Sequence[int]
    steps: int


class Engine(Protocol):
    """Does jobs. All engines give the same bits for the same jobs."""

    def run(self, jobs: Sequence[Job]) -> list[Update]:
        """Return one update per job, in the order of ``jobs``.

        The tensors of the updates belong to the caller. Peers may repeat.

        Raises:
            PeerLostError: the process that trained a peer died, twice.
            Exception: whatever the trainer raised for the first job, in order,
                that failed; a note names the peer.
        """
        ...

    def close(self) -> None:
        """End all processes; ``run`` must not be called again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
