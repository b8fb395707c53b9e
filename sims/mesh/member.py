"""A whole peer as ``clients.peer.member`` makes it, with its stores in memory."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedcore.names import PeerId
from p2p.content.library import Library
from p2p.content.lookup import Lookup
from p2p.content.search import Found
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.content.swarm import Ended, Swarm
from p2p.identity.keys import Key
from p2p.identity.openings import Opening
from p2p.members.addresses import AddressBook
from p2p.members.card import About
from p2p.members.door import Door
from p2p.members.judging import Policy
from p2p.members.pulse import Pulse
from p2p.mesh import Addresses, Mesh
from p2p.nat.reach import Reach
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import Habits
from sims.mesh.charter import Charter
from sims.mesh.place import Place

SAVE_S = 30.0


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


@dataclass
class SimMember:
    """All machines of one peer, and what one needs of another.

    Attributes:
        place: where it lives.
        home: its network.
        own: its own addresses.
        first: where the founder is, as the invite says.
    """

    place: Place
    home: Charter
    own: tuple[str, ...]
    first: tuple[str, ...]
    _saved_s: float = 0.0
    _view: Any = None

    def __post_init__(self) -> None:
        place, rng = self.place, self.place.rng
        network, opening = self.home.network, self.home.openings[place.index]
        self.replica = self._replica(network, opening, rng)
        self.book = AddressBook(place.disk.keep("book", MemoryFiles), place.wall)
        about = About(addresses=self.own, relays=place.host == 0)
        self.pulse = Pulse(place.key, about, self.is_member, rng)
        policy = Policy(self.is_member, self.banned)
        key = place.key
        self.door = Door(key, network, opening, policy, rng, place.wall, "1.0")
        shelf = Shelf(place.disk.keep("blobs", MemorySpace))
        lookup = Lookup(key, network, rng, place.wall)
        self.library = Library(Swarm(shelf, rng), lookup)
        self.reach = Reach.of(place.peer, key.public, rng)
        self.mesh = Mesh(
            self.door,
            self.reach,
            {"pulse": self.pulse, "state": self.replica, "library": self.library},
            addresses=self.addresses,
            hears=self.hears,
            tasks=(self.keep_level, self.keep_book),
        )

    def _replica(self, network: str, opening: bytes, rng: random.Random) -> Replica:
        place = self.place
        store = place.disk.keep("log", MemoryLogStore)

        def fresh_key() -> Key:
            return Key(rng.randbytes(32))

        habits = Habits(fresh=place.fresh, fresh_key=fresh_key)
        return Replica(place.key, network, opening, store, rng, place.wall, habits)

    def is_member(self, peer: PeerId) -> bool:
        """Return whether ``peer`` belongs to the network, as far as we know."""
        member = self.replica.view.members.get(peer)
        inside = peer in self.door.members()
        return inside if member is None else member.status != "out"

    def banned(self, opening: Opening) -> str | None:
        """Return why a member was sent away; None if it was not."""
        return self.replica.fold.why_out(opening)

    def addresses(self) -> Addresses:
        """Return whom to be connected with, and where."""
        members = self.replica.view.members
        known = [*self.door.members(), *self.book.peers(), *members]
        found: dict[PeerId, tuple[str, ...]] = {}
        if self.place.index:
            found[self.place.peers[0]] = self.first
        for peer in dict.fromkeys(known):
            if peer != self.place.peer:
                kept = [place.address for place in self.book.of(peer)]
                places = [*self.pulse.addresses(peer), *kept, *found.get(peer, ())]
                found[peer] = tuple(dict.fromkeys(places))
        return found

    def hears(self, _now_s: float, effect: Any) -> Iterable[Any] | None:
        """Take what is meant for the owner of the node."""
        return [] if isinstance(effect, Ended | Found) else None

    def keep_level(self, now_s: float) -> Iterable[Any]:
        """Turn away who was sent away, as soon as the state says so."""
        view = self.replica.view
        if view is self._view:
            return ()
        self._view = view
        return self.mesh.do("door", now_s, self.door.review())

    def keep_book(self, now_s: float) -> Iterable[Any]:
        """Write down where peers were met."""
        if now_s >= self._saved_s + SAVE_S:
            self._saved_s = now_s
            for peer in self.door.members():
                self.book.heard(peer, self.pulse.addresses(peer))
            self.book.save()
        return ()
