"""Ending a run early, after a whole round and with a checkpoint."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from fedcore.coordinator import Desk, Event, Journal

Ending = Literal["finished", "target", "stopped"]


class HaltError(Exception):
    """Leads out of the coordinator's loop when it ends early."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending: Ending = ending


@dataclass(frozen=True)
class Braked:
    """A journal that says where the run goes on, and ends it when asked to.

    Attributes:
        inner: keeps what there is to keep.
        begin: hears of the desk from which the run goes on, and says how it ended
            there, if it did and was killed before that was written down.
        ending: asked after every round how to end there, if at all.
        saved: the last desk, once the run has ended.
    """

    inner: Journal
    begin: Callable[[Desk[Any, Any]], Ending | None]
    ending: Callable[[], Ending | None]
    saved: list[Desk[Any, Any]] = field(default_factory=list)

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], Iterable[Event]]:
        desk, events = self.inner.open(begin)
        ending = self.begin(desk)
        if ending is not None:
            self.saved.append(desk)
            raise HaltError(ending)
        return desk, events

    def record(self, serial: int, event: Event) -> None:
        self.inner.record(serial, event)

    def folded(self, desk: Desk[Any, Any]) -> None:
        ending = self.ending()
        if ending is None:
            self.inner.folded(desk)
        else:
            self.save(desk)
            raise HaltError(ending)

    def save(self, desk: Desk[Any, Any]) -> None:
        self.inner.save(desk)
        self.saved.append(desk)

    def close(self) -> None:
        self.inner.close()
