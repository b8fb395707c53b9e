"""The pulse (``/pulse/1``): all who live are seen alive, and the dead are not.

In some runs a peer is taken away for ever while things still go wrong: what others
heard of it must not keep it alive, nor what liars and clones repeat.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.machine import Machine
from p2p.members.card import About
from p2p.members.pulse import Pulse
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.liar import running
from sims.mesh.place import Place
from sims.mesh.weight import Scales
from sims.mesh.world import World

MEMORY_BYTES = 1 << 21


@dataclass
class PulseScene:
    """See the module."""

    nodes: int = 6
    minutes: float = 2.0
    settle_s: float = 180.0
    faults: Faults = ALL
    scales: Scales = field(default_factory=lambda: Scales(MEMORY_BYTES))

    def build(self, place: Place) -> Machine:
        members = {*place.peers}
        address = f"/ip4/198.51.100.{place.index + 1}/tcp/4001"
        about = About(addresses=(f"{address}/p2p/{place.peer}",))
        return Pulse(place.key, about, members.__contains__, place.rng)

    def begin(self, world: World) -> None:
        world.looks.append(self.scales)
        dice = world.dice("death")
        if dice.random() < 0.5 and len(world.hosts) > 3:
            dead, at_s = world.hosts[1], dice.uniform(5, 60 * self.minutes)
            world.at(at_s, lambda: world.retire(dead))

    def missing(self, world: World) -> str | None:
        living = {h.peer for h in world.honest}
        lying = {h.peer for h in world.hosts if h.lies}
        for host in world.honest:
            if not world.wires.peers(host):
                return f"{host.name} is alone"
            seen = self._seen(world, host)
            if lacking := living - seen - {host.peer}:
                return f"{host.name} does not see {_names(world, lacking)}"
            if ghosts := seen - living - lying:
                return f"{host.name} sees the ghosts of {_names(world, ghosts)}"
        return None

    def _seen(self, world: World, host: Host) -> set[PeerId]:
        return {*running(host, Pulse).alive(host.clock.read(world.now_s))}

    def figures(self, _world: World) -> Mapping[str, float]:
        return {"bytes of a pulse": self.scales.heaviest}


def _names(world: World, peers: set[PeerId]) -> str:
    return " ".join(sorted(map(world.name, peers)))
