"""What the logs come to: collections that grow with every entry.

Every collection is the same whatever the order in which entries of different writers
come, so a new entry is just added. Only when something that counted may count no more,
because a log was cut or somebody sent away, is all folded anew.

    reference     ``p2p.state.reference`` says the same, slowly and obviously
    noted         what a member wrote and nobody can read; it stays in the log, and is
                  passed over by everybody alike
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.identity.removals import Said as SaidRemoval
from p2p.identity.removals import Standing, standing
from p2p.state.bodies import MAX_LAMPORT, Run
from p2p.state.catalogue import Catalogue, Shelf
from p2p.state.chain import Kind
from p2p.state.counters import Counters, Tally
from p2p.state.logs import Logs
from p2p.state.members import Member, Members, removal_said
from p2p.state.places import Listed, Places
from p2p.state.runs import Runs
from p2p.state.said import MAY, Place, Said, may_say
from p2p.state.scores import Ratings, Scores
from p2p.state.store import Row

NOTED = 256  # entries that are remembered as unreadable
_CHUNK = 256  # entries read at once
_PARTS = {Kind.LEAVE: Kind.OPENING, Kind.RETURN: Kind.OPENING}  # both are members

T = TypeVar("T")


class Collection(Protocol):
    """One part of the state."""

    def take(self, said: Said) -> int:
        """Count an entry; return its lamport number, or 0.

        Raises:
            ProtocolError: it cannot be read; nothing changed.
        """
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
        removal_said(said)
        return 0


class Fold:
    """The collections of one replica.

    Attributes:
        turns: how often all was folded anew; what is derived from places is then void.
    """

    def __init__(self, logs: Logs) -> None:
        self.logs, self.turns = logs, 0
        self._stale = True
        self._view: View | None = None
        self._clear()

    def take(self, opening: Opening, start: int, rows: Sequence[Row]) -> None:
        """Count new entries of a log, which follow position ``start``."""
        self._view = None
        if self._members.openings.get(opening.writer) != opening:
            self._members.openings[opening.writer] = opening
            self._parts.pop(Kind.OPENING, None)
        for position, (entry, _) in enumerate(rows, start + 1):
            said = Said(Place(opening.writer, position), opening, entry)
            if self._stale:
                break
            if entry.kind == Kind.REMOVAL:  # of one sent away it changes nothing
                self._stale = may_say(said, self._kept_of(opening))
            self._count(said)

    def reset(self) -> None:
        """Fold all anew, when somebody looks: entries are gone."""
        self._stale, self._view = True, None

    def view(self) -> View:
        """Return the state as it is now."""
        if self._stale:
            self._refold()
        if self._view is None:
            self._view = View(
                self._part(Kind.OPENING, lambda: self._members.view(self._standing)),
                self._part(Kind.RUN, self._runs.view),
                self._part(Kind.FACT, self._facts.view),
                self._part(Kind.CHECKPOINT, self._catalogue.view),
                self._part(Kind.SCORE, self._scores.view),
                self._part(Kind.COUNT, self._counters.view),
                self._part(Kind.NOTE, self._notes.view),
                self._lamport,
                MappingProxyType(dict(self._noted)),
            )
        return self._view

    def why_out(self, opening: Opening) -> str | None:
        """Return why one with this opening was sent away; None if nobody was."""
        self.view()
        return self._standing.why(opening)

    def _part(self, kind: Kind, make: Callable[[], T]) -> T:
        """Return one part of the view, made anew only if it has changed."""
        if kind not in self._parts:
            self._parts[kind] = make()
        part: T = self._parts[kind]
        return part

    def _clear(self) -> None:
        self._members, self._runs, self._facts = Members(), Runs(), Places()
        self._catalogue, self._scores = Catalogue(), Scores()
        self._counters, self._notes = Counters(), Places()
        self._standing, self._parts = Standing(), dict[Kind, Any]()
        self._kept: dict[PeerId, int | None] = {}
        self._lamport, self._noted = 0, dict[Place, str]()
        self._takers: dict[Kind, Collection] = {
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

    def _refold(self) -> None:
        self._clear()
        self.turns += 1
        self._stale = False
        self._members.openings = {
            writer: log.opening
            for writer, log in self.logs.by_writer.items()
            if log.opening and log.tip.length
        }
        self._standing = standing(self._removals())
        for said in said_in(self.logs):
            self._count(said)

    def _removals(self) -> Iterator[SaidRemoval]:
        for said in said_in(self.logs, Kind.REMOVAL):
            with suppress(ProtocolError):
                yield removal_said(said)

    def _count(self, said: Said) -> None:
        taker = self._takers.get(said.entry.kind)
        if taker is None or not may_say(said, self._kept_of(said.opening)):
            return
        try:
            self._lamport = max(self._lamport, taker.take(said))
            self._parts.pop(_PARTS.get(said.entry.kind, said.entry.kind), None)
        except ProtocolError as error:
            self._note(said, error)

    def _kept_of(self, opening: Opening) -> int | None:
        if opening.writer not in self._kept:
            self._kept[opening.writer] = self._standing.kept(opening)
        return self._kept[opening.writer]

    def _note(self, said: Said, error: ProtocolError) -> None:
        if len(self._noted) < NOTED:
            self._noted[said.place] = str(error)


def said_in(logs: Logs, kind: Kind | None = None) -> Iterator[Said]:
    """Yield every entry of every log; or those of one kind that may be said there."""
    for writer, log in logs.by_writer.items():
        opening = log.opening
        if opening is None or (kind is not None and kind not in MAY[opening.role]):
            continue
        for start in range(0, log.tip.length, _CHUNK):
            stop = min(start + _CHUNK, log.tip.length)
            rows = logs.store.rows(writer, start, stop)
            for position, (entry, _) in enumerate(rows, start + 1):
                if kind in (None, entry.kind):
                    yield Said(Place(writer, position), opening, entry)
