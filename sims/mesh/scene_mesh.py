"""A whole mesh: door, pulse, state, content and ways, all machines of a peer at once.

Peers know the founder's address from their invite, and find the others themselves,
hidden ones through the founder, who relays. Some of them are no members, or do not
stay members, or cheat (``sims.mesh.crew``). In the end every member is connected with
every other, all agree, all see each other alive, all have the founder's blob, and none
has let in, or taken a word from, who does not belong. Of a peer that was cloned only
one copy can be connected with a peer at a time.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from clients.peer.member import Member
from fedcore.names import PeerId
from p2p.content.adding import add_bytes, read_bytes
from p2p.content.cid import Cid
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.machine import Machine
from p2p.mesh import Mesh
from p2p.state.bodies import Count
from p2p.state.chain import Kind
from sims.mesh.crew import EQUIVOCATOR, EVICTED, Crew
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.level import lacking, parted, removal
from sims.mesh.liar import honest
from sims.mesh.place import Place
from sims.mesh.users import Promises, users
from sims.mesh.ways import Ways
from sims.mesh.weight import Scales
from sims.mesh.world import World

WRITE_S, ASK_S = 3.0, 5.0
PART_S = (3.0, 20.0)  # when people are sent away, and disks copied
AGAIN_S = 2.0  # an admin that could not send somebody away tries again
MEMORY_BYTES = 24 << 20


@dataclass
class MeshScene:
    """See the module."""

    nodes: int = 5
    minutes: float = 1.5
    settle_s: float = 900.0
    faults: Faults = ALL
    promised: Promises = field(default_factory=Promises)
    removed: set[PeerId] = field(default_factory=set)
    scales: Scales = field(default_factory=lambda: Scales(MEMORY_BYTES, 60.0))
    blob: bytes = b""
    cid: Cid = ""

    def build(self, place: Place) -> Machine:
        return self.crew.build(place)

    def begin(self, world: World) -> None:
        self.crew = Crew.of(world.hosts, world.dice("crew"))
        self.outside = self.crew.outside(world.hosts)
        dice = world.dice("blob")
        self.blob = dice.randbytes(300_000 + dice.randrange(600_000))
        self.cid = add_bytes(Shelf(MemorySpace()), self.blob)
        ways = Ways(world)
        world.wanted = lambda _a, _b: False
        world.carry_out = ways
        world.booted = lambda host: world.post(host, ways.here(host))
        world.looks += [self.scales, self._strange]
        world.later(WRITE_S, lambda: users(world, WRITE_S, self._write))
        world.later(ASK_S, lambda: self._ask(world))
        for index, part in self.crew.parts.items():
            self._plan(world, world.hosts[index], part)

    def _plan(self, world: World, host: Host, part: str) -> None:
        at_s = world.dice("part", host.index).uniform(*PART_S)
        if part == EQUIVOCATOR:
            world.at(at_s, lambda: self._double(world, host))
        elif part == EVICTED:
            world.at(at_s, lambda: self._evict(world, host))

    def _double(self, world: World, host: Host) -> None:
        if world.nemesis.done:
            return
        twin, dice = world.clone(host), world.dice("equivocator")
        for number in range(4):  # both go on from the same entry
            for copy in (host, twin):
                say = partial(self._write, world, dice, number, copy)
                world.later(AGAIN_S * (number + 1), say)

    # ---- users ------------------------------------------------------------------

    def _write(
        self, world: World, _dice: random.Random, number: int, host: Host
    ) -> None:
        name = f"{self.crew.parts.get(host.original, '')}{number}"
        ready = host.up and self._member(host).replica.ready
        if ready and world.call(host, partial(self._count, host, name)):
            self.promised.add(host, [name])

    def _count(
        self, host: Host, name: str, mesh: Machine, now_s: float
    ) -> Sequence[Any]:
        said = [(Kind.COUNT, Count(name, 1).encode())]
        effects = self._member(host).replica.write(said)
        return cast(Mesh, mesh).do("state", now_s, effects)

    def _evict(self, world: World, host: Host) -> None:
        """Let the founder send ``host`` away, who does not care."""
        founder = world.hosts[0]
        if world.nemesis.done:
            return
        if founder.up and self._member(founder).replica.ready:
            for copy in (h for h in world.hosts if h.peer == host.peer):
                copy.crooked = True
            if world.call(founder, partial(self._remove, founder, host.peer)):
                self.removed.add(host.peer)
                return
        world.later(AGAIN_S, lambda: self._evict(world, host))

    def _remove(
        self, founder: Host, peer: PeerId, mesh: Machine, now_s: float
    ) -> Sequence[Any]:
        replica = self._member(founder).replica
        effects = replica.write([(Kind.REMOVAL, removal(replica, peer))])
        return cast(Mesh, mesh).do("state", now_s, effects)

    def _ask(self, world: World) -> None:
        for host in world.hosts:
            world.call(host, partial(self._fetch, host))
        world.later(ASK_S, lambda: self._ask(world))

    def _fetch(self, host: Host, mesh: Machine, now_s: float) -> Sequence[Any]:
        member = self._member(host)
        blob = member.shelf.blob(self.cid)
        if blob is not None and blob.whole:
            return ()
        if host.index == 0:
            add_bytes(member.shelf, self.blob)
            given = member.library.added(now_s, self.cid)
            return cast(Mesh, mesh).do("library", now_s, given)
        return member.want(now_s, self.cid)

    # ---- what must hold -----------------------------------------------------------

    def _strange(self, world: World) -> str | None:
        """Return who has let in, or believed, one that never belonged."""
        for host in world.honest:
            member = self._member(host)
            if wrong := self.outside & {*member.mesh.inside()}:
                return f"{host.name} has let in {world.name(min(wrong))}"
            view = member.replica.view
            if wrong := self.outside & view.members.keys():
                return f"{host.name} counts {world.name(min(wrong))} as a member"
            if said := {n for n in view.counters if n.startswith(("str", "thi"))}:
                return f"{host.name} believes a stranger: {min(said)}"
        return None

    def missing(self, world: World) -> str | None:
        single = [host for host in world.honest if not host.cloned]
        living = {host.peer for host in single}
        for host in single:
            member = self._member(host)
            if far := living - {*member.mesh.inside()} - {host.peer}:
                words = member.reach.words.get(min(far), "unknown")
                return f"{host.name} is not with {world.name(min(far))}: {words}"
            seen = {*member.pulse.alive(host.clock.read(world.now_s)), host.peer}
            if unseen := living - seen:
                return f"{host.name} does not see {world.name(min(unseen))}"
        together = self._together(world)
        sure = self.promised.sure(world, together)
        members = {host.name: self._member(host) for host in together}
        return self._unequal(members, sure) or self._still_in(world, members)

    def _together(self, world: World) -> Sequence[Host]:
        """Return the honest hosts that can hear, directly or not, of one another.

        Copies of a peer may be connected with nobody but copies of others.
        """
        left = world.honest
        reached = [h for h in left if not h.cloned] or left[:1]
        for host in reached:  # grows meanwhile
            reached += [
                h for h in left if h not in reached and self._talk(world, host, h)
            ]
        return reached

    def _talk(self, world: World, a: Host, b: Host) -> bool:
        joined = world.wires.joined(a, b) or world.channels.joined(a, b)
        inside = self._member(a).door.admits(b.peer)
        return joined and inside and self._member(b).door.admits(a.peer)

    def _unequal(self, members: Mapping[str, Member], sure: set[str]) -> str | None:
        replicas = {name: member.replica for name, member in members.items()}
        if wrong := parted(replicas) or lacking(replicas, sure):
            return wrong
        for name, member in members.items():
            blob = member.shelf.blob(self.cid)
            if blob is None or not blob.whole:
                return f"{name} has not all of the blob"
            if read_bytes(member.shelf, self.cid) != self.blob:
                return f"{name} has another blob"
        return None

    def _still_in(self, world: World, members: Mapping[str, Member]) -> str | None:
        """Return who has not turned away one that was sent away."""
        gone: Collection[PeerId] = () if world.hosts[0].rolled_back else self.removed
        for name, member in members.items():
            for peer in gone:
                known = member.replica.view.members.get(peer)
                stays = known is not None and known.status != "out"
                if stays or member.door.admits(peer):
                    return f"{name} has not turned away {world.name(peer)}"
        return None

    def _member(self, host: Host) -> Member:
        member = self.crew.members[host.index]
        if host.up and member.mesh is not honest(host.machine):
            raise AssertionError(f"{host.name} runs another machine than was built")
        return member

    def figures(self, _world: World) -> Mapping[str, float]:
        return {
            "bytes of a peer": self.scales.heaviest,
            "acknowledged": self.promised.count,
            "no plain members": len(self.crew.parts),
        }
