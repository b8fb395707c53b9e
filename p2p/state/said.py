"""An entry in its place: who said what, where."""

from dataclasses import dataclass
from typing import NamedTuple

from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.state.chain import Entry, Kind


class Place(NamedTuple):
    """Where an entry stands: the log, and its number there, from 1."""

    writer: PeerId
    position: int


class Stamp(NamedTuple):
    """When a value of a register was written: the greatest one counts."""

    lamport: int
    place: Place


@dataclass(frozen=True, slots=True)
class Said:
    """An entry, where it stands, and what let its writer in."""

    place: Place
    opening: Opening
    entry: Entry

    @property
    def peer(self) -> PeerId:
        """Who said it, in whichever of its logs."""
        return self.opening.peer


_OF_ITSELF = frozenset({Kind.OPENING, Kind.LEAVE, Kind.RETURN})
MAY: dict[str, frozenset[Kind]] = {
    "admin": frozenset(Kind),
    "peer": frozenset(Kind) - {Kind.RUN, Kind.REMOVAL},
    "observer": _OF_ITSELF,
    "relay": _OF_ITSELF,
}


def may_say(said: Said, kept: int | None) -> bool:
    """Return whether an entry counts.

    Args:
        said: the entry.
        kept: how many entries of its log count; None if its peer was not sent away.
    """
    in_time = kept is None or said.place.position <= kept
    return in_time and said.entry.kind in MAY[said.opening.role]
