"""A whole peer as ``fedcore peer`` runs it, with its stores in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clients.peer.ground import Ground
from clients.peer.home import Home
from clients.peer.member import Member
from clients.peer.settings import PeerSettings
from p2p.content.space import MemorySpace
from p2p.identity.openings import check_opening
from p2p.state.store import MemoryLogStore
from sims.mesh.place import Place

NOWHERE = Path("/nowhere")  # nothing is read or written there


@dataclass
class MemoryFiles:
    """Small files that are replaced as a whole, and durable at once."""

    files: dict[str, bytes] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        """Return the names of all files."""
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        """Return a file."""
        return self.files[name]

    def replace(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of a file."""
        self.files[name] = data

    def crash(self) -> None:
        """Lose nothing."""


def ground_at(place: Place) -> Ground:
    """Return the ground of a peer at ``place``."""
    disk = place.disk
    return Ground(
        disk.keep("log", MemoryLogStore),
        disk.keep("book", MemoryFiles),
        disk.keep("blobs", MemorySpace),
        place.habits(),
        place.wall,
        place.rng,
    )


def member_at(
    place: Place, proof: bytes, network: str, own: Sequence[str], ways: Sequence[str]
) -> Member:
    """Return the machines of a peer at ``place``, as a program has them.

    Args:
        place: where it lives.
        proof: its opening.
        network: that it belongs to.
        own: its own addresses.
        ways: where somebody is, as its invite says.
    """
    opening = check_opening(proof, network)
    home = Home(NOWHERE, place.key, opening, proof, tuple(ways))
    made = Member(home, PeerSettings(), "1.0", ground_at(place))
    made.say(replace(made.about, addresses=tuple(own), relays=place.host == 0))
    return made
