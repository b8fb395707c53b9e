"""The swarm (``/swarm/1``): who wants a blob gets it, whole and unchanged.

Two peers have a blob each at first; all others want both. Users ask again for what a
crash made the program forget, as a node does after a start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from p2p.content.adding import add_bytes, read_bytes
from p2p.content.cid import Cid
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.content.swarm import Ended, Seek, Swarm
from p2p.machine import Machine
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.liar import running
from sims.mesh.place import Place
from sims.mesh.world import World

ASK_S = 5.0  # users look so often whether they have what they want


@dataclass
class SwarmScene:
    """See the module."""

    nodes: int = 5
    minutes: float = 1.0
    settle_s: float = 240.0
    faults: Faults = ALL
    blobs: dict[int, bytes] = field(default_factory=dict)  # by host that has it
    cids: dict[int, Cid] = field(default_factory=dict)
    ended: int = 0

    def build(self, place: Place) -> Machine:
        shelf = Shelf(place.disk.keep("blobs", MemorySpace))
        return Swarm(shelf, place.rng)

    def begin(self, world: World) -> None:
        for index in range(min(2, len(world.hosts))):
            dice = world.dice("blob", index)
            size = dice.choice([1, 300_000, 1_500_000]) + dice.randrange(1000)
            self.blobs[index] = dice.randbytes(size)
            shelf = Shelf(MemorySpace())
            self.cids[index] = add_bytes(shelf, self.blobs[index])
        world.carry_out = self._heard
        world.later(1.0, lambda: self._ask(world))

    def _heard(self, host: Host, effect: object) -> None:
        if isinstance(effect, Ended):
            self.ended += not effect.why
        elif not isinstance(effect, Seek):
            raise TypeError(f"not an effect of a swarm: {effect!r}")

    def _ask(self, world: World) -> None:
        for host in world.hosts:
            world.call(host, partial(self._user, host))
        world.later(ASK_S, lambda: self._ask(world))

    def _user(self, host: Host, machine: Machine, now_s: float) -> Sequence[Any]:
        swarm = cast(Swarm, machine)
        effects: list[Any] = []
        for index, cid in self.cids.items():
            blob = swarm.shelf.blob(cid)
            if blob is not None and blob.whole:
                continue
            if index == host.index:
                add_bytes(swarm.shelf, self.blobs[index])
            elif cid not in swarm.wanted:
                effects += swarm.want(now_s, cid)
        return effects

    def missing(self, world: World) -> str | None:
        for host in world.honest:
            shelf = running(host, Swarm).shelf
            for index, cid in self.cids.items():
                blob = shelf.blob(cid)
                if blob is None or not blob.whole:
                    return f"{host.name} has not all of blob {index}"
                if read_bytes(shelf, cid) != self.blobs[index]:
                    return f"{host.name} has another blob {index}"
        return None

    def figures(self, _world: World) -> Mapping[str, float]:
        return {"blobs fetched": self.ended}
