"""Several machines as one: events find their part, effects come out together.

Parts know nothing of each other. Tickets and alarms are translated, so that each part
keeps its own. Only what a part declares in ``topics`` reaches it. Besides the events
and effects of ``p2p.machine``, parts may have their own; one with a ``ticket`` is a
request, or what came of it.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedcore.errors import ProtocolError, StorageError
from fedcore.names import shown
from p2p.machine import (
    Answer,
    Asked,
    Effect,
    Machine,
    Note,
    Refuse,
    Ticket,
    Told,
    Wake,
    Woken,
)

NEVER_S = float("inf")
AGAIN_S = 1.0  # after which a part whose disk failed is woken again


@dataclass
class Composed:
    """A machine made of named parts.

    Attributes:
        parts: the machines by name, in the order in which events reach them.
    """

    parts: Mapping[str, Machine]
    _owners: dict[Ticket, tuple[str, Ticket]] = field(default_factory=dict)
    _alarms: dict[str, float] = field(default_factory=dict)
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _armed_s: float = NEVER_S
    _moved: bool = True  # an alarm may have changed since the last ``alarm``

    def __post_init__(self) -> None:
        self._alarms = dict.fromkeys(self.parts, 0.0)  # the first event wakes all
        self._routes = {
            t: name for name, part in self.parts.items() for t in part.topics
        }

    @property
    def topics(self) -> Collection[str]:
        return self._routes

    def step(self, now_s: float, event: Any) -> Sequence[Effect]:
        """Give ``event`` to the part that it concerns, or to all; see ``Machine``."""
        match event:
            case Told() | Asked():
                name = self._routes.get(event.topic)
                if name is None:
                    raise ProtocolError(f"nothing here answers {shown(event.topic)}")
                out = self.feed(name, now_s, event)
            case _ if hasattr(event, "ticket"):  # what came of a request of ours
                owner = self._owners.pop(event.ticket, None)
                if owner is None:
                    return ()
                name, ticket = owner
                out = self.feed(name, now_s, replace(event, ticket=ticket))
            case Woken():
                out = [e for name in self._due(now_s) for e in self._ring(name, now_s)]
            case _:
                out = [e for name in self.parts for e in self.feed(name, now_s, event)]
        return [*out, *self.alarm()]

    def feed(self, name: str, now_s: float, event: Any) -> list[Effect]:
        """Give ``event`` to one part and return its effects, translated.

        That a part's disk fails is said, and no trouble of the others.
        """
        try:
            effects = self.parts[name].step(now_s, event)
        except StorageError as error:
            effects = _failed(now_s, event, str(error))
        return self.take(name, effects)

    def take(self, name: str, effects: Sequence[Effect]) -> list[Effect]:
        """Return ``effects``, which the part ``name`` made, translated.

        Also for effects of a part's own methods, such as a local write. They end with
        ``alarm()`` to be complete.
        """
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case Wake():
                    self._alarms[name], self._moved = effect.at_s, True
                case Answer() | Refuse():  # the ticket is the driver's
                    out.append(effect)
                case _ if hasattr(effect, "ticket"):
                    out.append(self._renamed(name, effect))
                case _:
                    out.append(effect)
        return out

    def _renamed(self, name: str, effect: Any) -> Any:
        """Return a request with a ticket that no other part has."""
        ticket = next(self._tickets)
        self._owners[ticket] = name, effect.ticket
        return replace(effect, ticket=ticket)

    def alarm(self) -> list[Effect]:
        """Return the ``Wake`` of the earliest alarm, if it has changed."""
        if not self._moved:
            return []
        self._moved = False
        earliest_s = min(self._alarms.values(), default=NEVER_S)
        if earliest_s in (self._armed_s, NEVER_S):
            return []
        self._armed_s = earliest_s
        return [Wake(earliest_s)]

    def _due(self, now_s: float) -> list[str]:
        self._armed_s, self._moved = NEVER_S, True
        return [name for name, at_s in self._alarms.items() if at_s <= now_s]

    def _ring(self, name: str, now_s: float) -> list[Effect]:
        self._alarms[name] = NEVER_S
        return self.feed(name, now_s, Woken())


def _failed(now_s: float, event: Any, why: str) -> Sequence[Effect]:
    """Return what is to be said when a part could not take ``event``."""
    note = Note("disk", why)
    if isinstance(event, Asked):
        return [note, Refuse(event.ticket, "the disk here takes nothing; ask others")]
    return [note, Wake(now_s + AGAIN_S)] if isinstance(event, Woken) else [note]
