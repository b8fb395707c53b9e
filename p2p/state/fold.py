"""What the logs come to: collections that grow with every entry.

Every collection is the same whatever the order in which entries of different writers
come, so a new entry is just added. When something that counted may count no more,
because a log was cut or its writer sent away, that log is forgotten and folded anew
when somebody looks: whoever forks its own log makes work in the measure of that log.

    reference     ``p2p.state.reference`` says the same, slowly and obviously
    noted         what a member wrote and nobody can read; it stays in the log, and is
                  passed over by everybody alike
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.identity.removals import Removal
from p2p.state.bodies import MAX_LAMPORT, Run, read_as
from p2p.state.catalogue import Catalogue, Shelf
from p2p.state.chain import WRITERS, Kind
from p2p.state.counters import Counters, Tally
from p2p.state.logs import Logs
from p2p.state.members import Member, Members
from p2p.state.places import Listed, Places
from p2p.state.runs import Runs
from p2p.state.said import Place, Said, may_say
from p2p.state.scores import Ratings, Scores
from p2p.state.store import Row

NOTED = 256  # entries that are remembered as unreadable
_CHUNK = 256  # entries read at once
_PARTS = {Kind.LEAVE: Kind.OPENING, Kind.RETURN: Kind.OPENING}  # both are members

T = TypeVar("T")


class Part(Protocol):
    """One part of the state."""

    def take(self, said: Said) -> int:
        """Count an entry; return its lamport number, or 0.

        Raises:
            ProtocolError: it cannot be read; nothing changed.
        """
        ...

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """The state at one moment.

    Attributes:
        members: by peer; those who left or were sent away too.
        runs: by name.
        facts: places of the facts of each run.
        checkpoints: by run.
        scores: what members think of each other.
        counters: by name.
        notes: places of the changes of each document.
        lamport: the highest number seen.
        noted: entries that cannot be read, and why; the first 256.
    """

    members: Mapping[PeerId, Member]
    runs: Mapping[str, Run]
    facts: Mapping[str, Listed]
    checkpoints: Mapping[str, Shelf]
    scores: Ratings
    counters: Mapping[str, Tally]
    notes: Mapping[str, Listed]
    lamport: int
    noted: Mapping[Place, str]

    @property
    def next_lamport(self) -> int:
        """The number to write a register with.

        One who writes the highest number that there is cannot keep others from
        writing: of equal numbers the later entry of a log counts.
        """
        return min(self.lamport + 1, MAX_LAMPORT)


class _Removals:
    """Only sees to it that those which cannot be read are noted."""

    def take(self, said: Said) -> int:
        read_as(Removal, said.entry)
        return 0

    def forget(self, writer: PeerId) -> None:
        pass


class Fold:
    """The collections of one replica.

    Attributes:
        turns: how often logs were folded anew.
    """

    def __init__(self, logs: Logs) -> None:
        self.logs, self.turns = logs, 0
        self._fresh, self._moved = True, set[PeerId]()
        self._again, self._void = dict[PeerId, int](), 0
        self._view: View | None = None
        self._members, self._runs, self._facts = Members(), Runs(), Places()
        self._catalogue, self._scores = Catalogue(), Scores()
        self._counters, self._notes = Counters(), Places()
        self._standing, self._made = logs.standing, dict[Kind, Any]()
        self._lamports, self._noted = dict[PeerId, int](), dict[Place, str]()
        self._parts: dict[Kind, Part] = {
            Kind.LEAVE: self._members,
            Kind.RETURN: self._members,
            Kind.RUN: self._runs,
            Kind.FACT: self._facts,
            Kind.CHECKPOINT: self._catalogue,
            Kind.SCORE: self._scores,
            Kind.COUNT: self._counters,
            Kind.NOTE: self._notes,
            Kind.REMOVAL: _Removals(),
        }
        logs.watch(self._moved.add)

    def take(self, opening: Opening, start: int, rows: Sequence[Row]) -> None:
        """Count new entries of a log, which follow position ``start``."""
        self._view = None
        later = self._fresh or opening.writer in self._moved
        if later or not self.logs.shown(opening.writer).length:
            return  # it will be read from the logs when it is to count
        if self._members.openings.get(opening.writer) != opening:
            self._members.openings[opening.writer] = opening
            self._made.pop(Kind.OPENING, None)
        for position, (entry, _) in enumerate(rows, start + 1):
            self._count(Said(Place(opening.writer, position), opening, entry))

    def view(self) -> View:
        """Return the state as it is now."""
        self._catch_up()
        if self._view is None:
            self._view = View(
                self._part(Kind.OPENING, lambda: self._members.view(self._standing)),
                self._part(Kind.RUN, self._runs.view),
                self._part(Kind.FACT, self._facts.view),
                self._part(Kind.CHECKPOINT, self._catalogue.view),
                self._part(Kind.SCORE, self._scores.view),
                self._part(Kind.COUNT, self._counters.view),
                self._part(Kind.NOTE, self._notes.view),
                max(self._lamports.values(), default=0),
                MappingProxyType(dict(self._noted)),
            )
        return self._view

    def why_out(self, opening: Opening) -> str | None:
        """Return why one with this opening was sent away; None if nobody was."""
        return self.logs.standing.why(opening)

    def changed(self, turn: int) -> Collection[PeerId] | None:
        """Return which logs were folded anew since ``turn``; None if all may have."""
        if turn < self._void:
            return None
        return [writer for writer, last in self._again.items() if last > turn]

    def _part(self, kind: Kind, make: Callable[[], T]) -> T:
        """Return one part of the view, made anew only if it has changed."""
        if kind not in self._made:
            self._made[kind] = make()
        part: T = self._made[kind]
        return part

    def _catch_up(self) -> None:
        """Fold what was not folded yet, or may not count as it did."""
        if self._fresh:
            self._fresh, self._void = False, 1
            self._moved.update(self.logs.by_writer)
        if self._standing is not self.logs.standing:
            self._standing, self._view = self.logs.standing, None
            self._made.pop(Kind.OPENING, None)
        self.turns += bool(self._moved)
        for writer in sorted(self._moved):
            self._anew(writer)
        self._moved.clear()

    def _anew(self, writer: PeerId) -> None:
        """Fold one log anew."""
        self._again[writer] = self.turns
        if len(self._again) > 2 * WRITERS:
            self._again, self._void = {}, self.turns
        self._members.openings.pop(writer, None)
        for part in self._parts.values():
            part.forget(writer)
        self._noted = {p: why for p, why in self._noted.items() if p.writer != writer}
        self._lamports.pop(writer, None)
        self._made, self._view = {}, None
        for said in said_of(self.logs, writer):
            self._members.openings[writer] = said.opening
            self._count(said)

    def _count(self, said: Said) -> None:
        kind, writer = said.entry.kind, said.place.writer
        part = self._parts.get(kind)
        if part is None or not may_say(said, self.logs.bound(writer)):
            return
        try:
            lamport = part.take(said)
        except ProtocolError as error:
            self._note(said, error)
            return
        self._lamports[writer] = max(self._lamports.get(writer, 0), lamport)
        self._made.pop(_PARTS.get(kind, kind), None)

    def _note(self, said: Said, error: ProtocolError) -> None:
        if len(self._noted) < NOTED:
            self._noted[said.place] = str(error)


def said_in(logs: Logs) -> Iterator[Said]:
    """Yield every entry that is part of the state."""
    for writer in logs.writers():
        yield from said_of(logs, writer)


def said_of(logs: Logs, writer: PeerId) -> Iterator[Said]:
    """Yield the entries of one log that are part of the state."""
    length = logs.shown(writer).length
    log = logs.by_writer.get(writer)
    for start in range(0, length, _CHUNK):
        rows = logs.store.rows(writer, start, min(start + _CHUNK, length))
        for position, (entry, _) in enumerate(rows, start + 1):
            if log and log.opening:
                yield Said(Place(writer, position), log.opening, entry)
