"""All machines of one peer, and what one needs of another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from clients.peer.ground import Ground
from clients.peer.home import Home
from clients.peer.keeping import PATIENCE_S, Keeping
from clients.peer.settings import PeerSettings
from clients.peer.ways import relays_among
from fedcore.errors import ConfigError, ProtocolError, StorageError
from fedcore.names import PeerId
from p2p.channel.certificates import Credentials
from p2p.circuit import parted, peer_in
from p2p.content.cid import digest_of
from p2p.content.library import Library
from p2p.content.lookup import Lookup
from p2p.content.manifest import MAX_BLOB_BYTES
from p2p.content.search import Found
from p2p.content.shelf import Shelf
from p2p.content.swarm import PATIENCE_S as WANT_S
from p2p.content.swarm import UP_BYTES_S, Ended, Swarm
from p2p.identity.openings import Opening
from p2p.machine import Machine, Note
from p2p.members.addresses import AddressBook
from p2p.members.card import About
from p2p.members.door import Door
from p2p.members.judging import Policy
from p2p.members.pulse import Pulse
from p2p.mesh import Addresses, Mesh
from p2p.nat.berths import SpliceDesk
from p2p.nat.effects import Dialled, NotDialled
from p2p.nat.reach import Reach
from p2p.relaying import Desk
from p2p.state.bodies import Checkpoint
from p2p.state.fold import View
from p2p.state.lasting import Lasting
from p2p.state.replica import Replica

BYTES_S_OF_MBIT = 125_000
MOST_LINKS = 64  # peers that we are connected with at a time
LEFT = "it has left the network; with a fresh invite it may come back"
SAVE_S = 5.0  # between two writings of the address book


@dataclass
class Member:
    """One peer's machines. Used in the driver's thread, once that runs.

    Attributes:
        home: the peer's folder.
        settings: its owner's.
        program: the version of this program.
        ground: where it keeps things.
        desk: gives leave to splice, if we are a relay.
        services: tells of our other services, if we are a relay.
        nearby: peers found on the local network, and where.
        ended: content that is fetched no more, and why; "" when it is here.
        names: what peers that were here call themselves.
    """

    home: Home
    settings: PeerSettings
    program: str
    ground: Ground
    desk: SpliceDesk | None = None
    services: Desk | None = None
    nearby: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    names: dict[PeerId, str] = field(default_factory=dict)
    _saved_s: float = 0.0
    _view: View | None = None  # of the last second; never changed, only replaced
    _keeping: Keeping = field(default_factory=Keeping)

    def __post_init__(self) -> None:
        home, ground = self.home, self.ground
        rng, wall = ground.rng, ground.wall
        name, role = self.settings.name, home.opening.role
        self.about = About(program=self.program, role=role, name=name)
        self.credentials = Credentials.of(home.key)
        place = home.network, home.proof
        self.replica = Lasting(ground.logs, self._replica)
        self.book = AddressBook(ground.book, wall)
        self.pulse = Pulse(home.key, self.about, self.is_member, rng)
        allow = frozenset(self.settings.allow) or None
        policy = Policy(self.is_member, self.banned, allow)
        self.door = Door(home.key, *place, policy, rng, wall, self.program)
        self.shelf = Shelf(ground.blobs, quota_bytes=self.settings.limit.disk_bytes)
        lookup = Lookup(home.key, home.network, rng, wall)
        up_bytes_s = self.settings.limit.up_mbit * BYTES_S_OF_MBIT or UP_BYTES_S
        self.library = Library(Swarm(self.shelf, rng, up_bytes_s=up_bytes_s), lookup)
        self.reach = Reach.of(home.me, self.credentials.certificate, rng, self.desk)
        parts: dict[str, Machine] = {"pulse": self.pulse, "state": self.replica}
        parts |= {"library": self.library}
        parts |= {"services": self.services} if self.services else {}
        self.mesh = Mesh(
            self.door,
            self.reach,
            parts,
            addresses=self.addresses,
            hears=self.hears,
            sees=self.sees,
            tasks=(self.keep_level, self.keep_all, self.keep_book),
        )

    def close(self) -> None:
        """Let go of the files; the machines are not used any more."""
        self.ground.close()

    def met_nearby(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Take note of who is on the local network; from any thread.

        Anybody there can announce anything: only the newest are kept. The driver may be
        reading, so the table is replaced, never changed.
        """
        others = [row for row in self.nearby.items() if row[0] != peer]
        self.nearby = dict([*others, (peer, tuple(addresses))][-MOST_LINKS:])

    def _replica(self) -> Replica:
        home, ground = self.home, self.ground
        kept = ground.logs, ground.rng, ground.wall
        quota_bytes = self.settings.limit.state_bytes
        habits = replace(ground.habits, quota_bytes=quota_bytes)
        return Replica(home.key, home.network, home.proof, *kept, habits)

    # What machines ask

    def is_member(self, peer: PeerId) -> bool:
        """Return whether ``peer`` belongs to the network, as far as we know."""
        return self._is_in(peer, self.replica.view)

    def was_member(self, peer: PeerId) -> bool:
        """Return the same, as it was a second ago at most; from any thread."""
        return self._is_in(peer, self._view)

    def _is_in(self, peer: PeerId, view: View | None) -> bool:
        member = view.members.get(peer) if view else None
        return self.door.admits(peer) if member is None else member.status == "in"

    def standing(self) -> str:
        """Return whether we are "in", have "left", or are "out"."""
        me = self.replica.view.members.get(self.home.me)
        return "in" if me is None else me.status

    def banned(self, opening: Opening) -> str | None:
        """Return why a member is none any more; None if it still is."""
        if why := self.replica.fold.why_out(opening):
            return why
        member = self.replica.view.members.get(opening.peer)
        gone = member is not None and member.status == "left"
        return LEFT if gone else None

    def addresses(self) -> Addresses:
        """Return whom to be connected with, and where: the likeliest first."""
        found: dict[PeerId, tuple[str, ...]] = {}
        members = self.replica.view.members
        for peer in self._worth_knowing():
            member = members.get(peer)
            gone = member is not None and member.status != "in"
            stranger = peer in self.mesh.relays and not self.is_member(peer)
            if gone or stranger or peer == self.home.me:
                continue
            found[peer] = self._places_of(peer)
            if len(found) >= MOST_LINKS:
                break
        return found

    def _worth_knowing(self) -> Iterable[PeerId]:
        """Yield peers: those inside, named in the invite, nearby, met, and members."""
        yield from self.door.members()
        yield from self.ways
        yield from self.nearby
        members = self.replica.view.members
        yield from (p for p in self.book.peers() if p not in members)
        yield from (p for p, m in members.items() if m.status == "in")

    @cached_property
    def ways(self) -> dict[PeerId, list[str]]:
        """Addresses that the invite and the settings name, by peer."""
        ways: dict[PeerId, list[str]] = {}
        for address in (*self.home.ways, *self.settings.find.bootstrap):
            peer = peer_in(address)
            if peer is not None:
                ways.setdefault(peer, []).append(address)
        return ways

    def _places_of(self, peer: PeerId) -> tuple[str, ...]:
        kept = [place.address for place in self.book.of(peer)]
        places = [*self.nearby.get(peer, ()), *self.pulse.addresses(peer), *kept]
        return tuple(dict.fromkeys([*places, *self.ways.get(peer, ())]))

    def relay_places(self) -> list[str]:
        """Return the addresses of all relays that we know, those set by hand first."""
        places = list(self.settings.find.relays)
        for address in (a for found in self.ways.values() for a in found):
            circuit = parted(address)
            places += [circuit[0]] if circuit else []
        inside = relays_among(self.door.members(), self.pulse.record, self.book)
        found = {a: peer_in(a) for a in [*places, *inside]}
        mine = {a: p for a, p in found.items() if p not in (None, self.home.me)}
        self.mesh.relays = {peer for peer in mine.values() if peer is not None}
        return list(mine)

    # What machines say

    def hears(self, now_s: float, effect: Any) -> Iterable[Any] | None:
        """Take what is meant for us among the effects of the machines."""
        match effect:
            case Ended(cid, why):
                self.ended[cid] = why
                return []
            case Found():
                return []  # the library has heard of it
        return None

    def sees(self, event: Any) -> None:
        """Remember where peers were met, and where not."""
        match event:
            case Dialled(peer, address=str(address)):
                self.book.reached(peer, address)
            case NotDialled(peer):
                for place in self.book.of(peer):
                    self.book.missed(peer, place.address)

    # Again and again

    def keep_level(self, now_s: float) -> Iterable[Any]:
        """Turn away who was sent away, as soon as the state says so."""
        for peer in self.door.members():
            if (card := self.pulse.record(peer)) is not None:
                self.names[peer] = card.about.name
        before, self._view = self._view, self.replica.view
        if self._view is before:
            return ()
        return self.mesh.do("door", now_s, self.door.review())

    def keep_all(self, now_s: float) -> Iterable[Any]:
        """Fetch every checkpoint that the network lists, if the owner wants that."""
        if not self.settings.keep_all:
            return ()
        wanted = self.library.swarm.wanted
        chosen = self._keeping.chosen(now_s, self._listed, wanted, self._lacks)
        return [e for point, by in list(chosen) for e in self._keep(now_s, point, by)]

    def _listed(self) -> Iterable[tuple[Checkpoint, tuple[PeerId, ...]]]:
        shelves = self.replica.view.checkpoints.values()
        return (row for shelf in shelves for row in shelf.all.items())

    def _lacks(self, cid: str) -> bool:
        """Return whether to fetch ``cid``; not if it was here and had to go."""
        return self.shelf.blob(cid) is None and self.ended.get(cid) != ""

    def _keep(self, now_s: float, point: Checkpoint, by: PeerId) -> Iterable[Any]:
        listed, wanted = self._listed, self.library.swarm.wanted
        try:
            digest_of(point.cid)  # before anything goes for what cannot come
            for cid in self._keeping.going(point, by, listed, wanted, self.shelf):
                self.shelf.remove(cid)
            return self.want(now_s, point.cid, point.size_bytes, PATIENCE_S)
        except (ConfigError, ProtocolError, StorageError) as error:
            self.ended[point.cid] = str(error)
            return [Note("fetch-failed", f"{point.run}: {error}", by)]

    def want(
        self,
        now_s: float,
        cid: str,
        most_bytes: int = MAX_BLOB_BYTES,
        patience_s: float = WANT_S,
    ) -> list[Any]:
        """Fetch content; return effects, ready for the wires."""
        given = self.library.want(
            now_s, cid, limit_bytes=most_bytes, patience_s=patience_s
        )
        self.ended.pop(cid, None)
        return self.mesh.do("library", now_s, given)

    def keep_book(self, now_s: float) -> Iterable[Any]:
        """Write down where peers were met."""
        if now_s < self._saved_s + SAVE_S:
            return ()
        self._saved_s = now_s
        for peer in self.door.members():
            self.book.heard(peer, self.pulse.addresses(peer))
        try:
            self.book.save()
        except StorageError as error:  # of use, but not worth an end
            return [Note("disk", str(error))]
        return ()

    def say(self, about: About) -> None:
        """Let the others know what we are now."""
        name, role = self.settings.name, self.home.opening.role
        fixed = replace(about, program=self.program, role=role, name=name)
        if fixed != self.about:
            self.about = fixed
            self.pulse.say(fixed)
