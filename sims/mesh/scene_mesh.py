"""A whole mesh: door, pulse, state, content and ways, all machines of a peer at once.

Peers know the founder's address from their invite, and find the others themselves,
hidden ones through the founder, who relays. In the end every peer is connected with
every other, all agree, all see each other alive, and all have the founder's blob. Of
a peer that was cloned only one copy can be connected with a peer at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from p2p.content.adding import add_bytes, read_bytes
from p2p.content.cid import Cid
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.machine import Machine
from p2p.mesh import Mesh
from p2p.state.bodies import Count
from p2p.state.chain import Kind
from sims.mesh.charter import Charter, charter
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.liar import honest
from sims.mesh.member import SimMember
from sims.mesh.place import Place
from sims.mesh.ways import Ways, addresses
from sims.mesh.weight import Scales
from sims.mesh.world import World

WRITE_S, ASK_S = 3.0, 5.0
MEMORY_BYTES = 24 << 20


@dataclass
class MeshScene:
    """See the module."""

    nodes: int = 4
    minutes: float = 1.5
    settle_s: float = 900.0
    faults: Faults = ALL
    promised: dict[int, list[str]] = field(default_factory=dict)  # by host
    members: dict[int, SimMember] = field(default_factory=dict)  # by host
    scales: Scales = field(default_factory=lambda: Scales(MEMORY_BYTES, 60.0))
    blob: bytes = b""
    cid: Cid = ""

    def build(self, place: Place) -> Machine:
        own = addresses(place.host, place.peers, place.peer, relay=place.host > 0)
        first = addresses(0, place.peers, place.peers[0], relay=False)
        member = SimMember(place, self.home, tuple(own), tuple(first))
        self.members[place.host] = member
        return cast(Machine, member.mesh)

    def begin(self, world: World) -> None:
        self.home: Charter = charter("home", tuple(h.key for h in world.hosts))
        dice = world.dice("blob")
        self.blob = dice.randbytes(300_000 + dice.randrange(600_000))
        self.cid = add_bytes(Shelf(MemorySpace()), self.blob)
        ways = Ways(world)
        world.wanted = lambda _a, _b: False
        world.carry_out = ways
        world.booted = lambda host: world.post(host, ways.here(host))
        world.looks.append(self.scales)
        world.later(WRITE_S, lambda: self._write(world, 0))
        world.later(ASK_S, lambda: self._ask(world))

    # ---- users ------------------------------------------------------------------

    def _write(self, world: World, number: int) -> None:
        if world.nemesis.done:
            return
        dice = world.dice("user", number)
        host = dice.choice(world.hosts)
        name = f"{number}"
        ready = host.up and self.members[host.index].replica.ready
        if ready and world.call(host, partial(self._count, host, name)):
            self.promised.setdefault(host.index, []).append(name)
        wait_s = dice.expovariate(1 / WRITE_S)
        world.later(wait_s, lambda: self._write(world, number + 1))

    def _count(
        self, host: Host, name: str, machine: Machine, now_s: float
    ) -> Sequence[Any]:
        effects = self.members[host.index].replica.write(
            [(Kind.COUNT, Count(name, 1).encode())]
        )
        return cast(Mesh, machine).do("state", now_s, effects)

    def _ask(self, world: World) -> None:
        for host in world.hosts:
            world.call(host, partial(self._fetch, host))
        world.later(ASK_S, lambda: self._ask(world))

    def _fetch(self, host: Host, machine: Machine, now_s: float) -> Sequence[Any]:
        library = self.members[host.index].library
        blob = library.shelf.blob(self.cid)
        if blob is not None and blob.whole:
            return ()
        if host.index == 0:
            add_bytes(library.shelf, self.blob)
            effects = library.added(now_s, self.cid)
        elif self.cid in library.swarm.wanted:
            return ()
        else:
            effects = library.want(now_s, self.cid)
        return cast(Mesh, machine).do("library", now_s, effects)

    # ---- what must hold -----------------------------------------------------------

    def missing(self, world: World) -> str | None:
        single = [host for host in world.honest if not host.cloned]
        living = {host.peer for host in single}
        for host in single:
            member = self._member(host)
            if lacking := living - {*member.mesh.inside()} - {host.peer}:
                peer = min(lacking)
                words = member.reach.words.get(peer, "unknown")
                return f"{host.name} is not with {world.name(peer)}: {words}"
            seen = {*member.pulse.alive(host.clock.read(world.now_s)), host.peer}
            if unseen := living - seen:
                return f"{host.name} does not see {world.name(min(unseen))}"
        return self._unequal(world, self._talking(world))

    def _talking(self, world: World) -> Sequence[Host]:
        """Return the honest hosts but for clones that nobody knows where to find."""
        return [
            h for h in world.honest if not h.cloned or self._member(h).mesh.inside()
        ]

    def _unequal(self, world: World, hosts: Sequence[Host]) -> str | None:
        roots = {host.name: self._member(host).replica.root()[:8] for host in hosts}
        if len(set(roots.values())) > 1:
            return f"roots {roots}"
        sure = {name for host in hosts for name in self._sure(world, host)}
        for host in hosts:
            member = self._member(host)
            if lost := sure - {*member.replica.view.counters}:
                return f"{host.name} lacks {len(lost)} entries such as {min(lost)}"
            blob = member.library.shelf.blob(self.cid)
            if blob is None or not blob.whole:
                return f"{host.name} has not all of the blob"
            if read_bytes(member.library.shelf, self.cid) != self.blob:
                return f"{host.name} has another blob"
        return None

    def _sure(self, world: World, host: Host) -> Sequence[str]:
        twins = [h for h in world.hosts if h.original == host.original]
        if host.lies or host.retired or any(h.rolled_back for h in twins):
            return ()
        return self.promised.get(host.index, ())

    def _member(self, host: Host) -> SimMember:
        member = self.members[host.index]
        if member.mesh is not honest(cast(Machine, host.machine)):
            raise AssertionError(f"{host.name} runs another machine than was built")
        return member

    def figures(self, _world: World) -> Mapping[str, float]:
        acked = sum(map(len, self.promised.values()))
        return {"bytes of a peer": self.scales.heaviest, "acknowledged": acked}
