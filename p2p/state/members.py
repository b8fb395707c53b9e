"""Who belongs to the network: whoever opened a log and was not sent away.

That somebody is alive is never written here: it is told, and forgotten.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.identity.removals import Removal, Standing
from p2p.identity.removals import Said as SaidRemoval
from p2p.state.bodies import Presence, read_as
from p2p.state.chain import Kind
from p2p.state.registers import Registers
from p2p.state.said import Said, Stamp

Status = Literal["in", "left", "out"]


@dataclass(frozen=True, slots=True)
class Member:
    """One member, or former member.

    Attributes:
        role: from its opening; see ``p2p.identity.rights``.
        status: "left" if it said so itself, "out" if it was sent away.
        why: it was sent away, as a sentence; "" otherwise.
        writers: its logs, sorted.
        opening: what let it in.
    """

    peer: PeerId
    role: str
    status: Status
    why: str
    writers: tuple[PeerId, ...]
    opening: Opening


@dataclass
class Members:
    """Openings of all logs, and who has said to be gone."""

    openings: dict[PeerId, Opening] = field(default_factory=dict)
    gone: Registers[PeerId, bool] = field(default_factory=Registers)

    def take(self, said: Said) -> int:
        """Count an entry of kind LEAVE or RETURN; return its lamport number."""
        body = read_as(Presence, said.entry)
        stamp = Stamp(body.lamport, said.place)
        self.gone.put(said.peer, stamp, said.entry.kind == Kind.LEAVE)
        return body.lamport

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        self.gone.forget(writer)

    def view(self, standing: Standing) -> Mapping[PeerId, Member]:
        """Return all members, former ones too, by peer."""
        gone = self.gone.view()
        return members_of(self.openings.values(), gone, standing)


def members_of(
    openings: Iterable[Opening], gone: Mapping[PeerId, bool], standing: Standing
) -> Mapping[PeerId, Member]:
    """Return the members with these ``openings``, of whom some have ``gone``."""
    by_peer: dict[PeerId, list[Opening]] = {}
    for opening in sorted(openings, key=lambda o: (o.writer != o.peer, o.writer)):
        by_peer.setdefault(opening.peer, []).append(opening)
    return MappingProxyType(
        {
            peer: _member(mine, gone.get(peer, False), standing)
            for peer, mine in sorted(by_peer.items())
        }
    )


def _member(openings: list[Opening], gone: bool, standing: Standing) -> Member:
    """Return one member; the opening of its own key's log speaks for it, if any."""
    first = openings[0]
    whys = [standing.why(opening) for opening in openings]
    out = all(whys)
    status: Status = "out" if out else "left" if gone else "in"
    writers = tuple(sorted(opening.writer for opening in openings))
    why = (whys[0] or "") if out else ""
    return Member(first.peer, first.role, status, why, writers, first)


def removal_said(said: Said) -> SaidRemoval:
    """Return a removal as ``p2p.identity.removals.standing`` takes it.

    Raises:
        ProtocolError: the body is none.
    """
    body = read_as(Removal, said.entry)
    return SaidRemoval(said.opening, said.place.position - 1, body)
