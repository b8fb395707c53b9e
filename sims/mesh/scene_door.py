"""The door (``/hello/1``): members find in, and nobody else does, whatever happens.

The last peers may be strangers, who try to come in with an opening that is another's,
of another network, or too old, or who were sent away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.machine import Machine
from p2p.members.door import REFUSED_RETRY_S, Door
from p2p.members.judging import Policy
from sims.mesh.charter import Charter, charter
from sims.mesh.faults import ALL, DAY_S, Faults
from sims.mesh.host import Host
from sims.mesh.liar import running
from sims.mesh.place import Place
from sims.mesh.weight import Scales
from sims.mesh.world import World

STRANGERS = ("stolen", "elsewhere", "late", "removed")
MEMORY_BYTES = 1 << 20


@dataclass
class DoorScene:
    """See the module."""

    nodes: int = 6
    minutes: float = 2.0
    settle_s: float = 2 * REFUSED_RETRY_S
    faults: Faults = ALL
    strangers: dict[int, str] = field(default_factory=dict)
    openings: list[bytes] = field(default_factory=list)
    members: set[PeerId] = field(default_factory=set)
    network: str = ""
    scales: Scales = field(default_factory=lambda: Scales(MEMORY_BYTES))

    def build(self, place: Place) -> Machine:
        network, policy = self.network, Policy(banned=self._banned)
        kind = self.strangers.get(place.index)
        if kind == "elsewhere":
            network = self.elsewhere.network
        opening = self.openings[place.index]
        if kind != "stolen":
            return Door(
                place.key, network, opening, policy, place.rng, place.wall, "1.0"
            )
        own = self.late.openings[place.index]  # any that is its own passes the check
        door = Door(place.key, network, own, policy, place.rng, place.wall, "1.0")
        door.opening = opening
        return door

    def begin(self, world: World) -> None:
        keys = tuple(host.key for host in world.hosts)
        whole = charter("home", keys)
        self.network, self.openings = whole.network, list(whole.openings)
        self.elsewhere = charter("home", keys[1:] + keys[:1])
        self.late = charter("home", keys, lasts_s=10 * DAY_S)
        dice = world.dice("strangers")
        for host in world.hosts[3:]:
            if dice.random() < 0.3:
                self._estrange(host, dice.choice(STRANGERS), whole)
        strange = {*self.strangers}
        self.members = {h.peer for h in world.hosts if h.index not in strange}
        world.checks.append(self._only_members)
        world.looks.append(self.scales)

    def _estrange(self, host: Host, kind: str, whole: Charter) -> None:
        self.strangers[host.index] = kind
        if kind == "stolen":
            self.openings[host.index] = whole.openings[0]
        elif kind == "elsewhere":
            self.openings[host.index] = self.elsewhere.openings[host.index - 1]
        elif kind == "late":
            self.openings[host.index] = self.late.openings[host.index]
        else:
            self.removed = getattr(self, "removed", set()) | {host.peer}

    def _banned(self, opening: Opening) -> str | None:
        gone = opening.peer in getattr(self, "removed", set())
        return "sent away" if gone else None

    def _only_members(self, _world: World, host: Host) -> str | None:
        if host.lies or host.original in self.strangers:
            return None
        wrong = set(door_of(host).members()) - self.members
        return f"admits {', '.join(map(_world.name, sorted(wrong)))}" if wrong else None

    def missing(self, world: World) -> str | None:
        for host in world.honest:
            if host.original in self.strangers:
                continue
            here = {p for p in world.wires.peers(host) if self._expected(world, p)}
            if lacking := here - set(door_of(host).members()):
                names = " ".join(sorted(map(world.name, lacking)))
                return f"{host.name} has not admitted {names}"
        return None

    def _expected(self, world: World, peer: PeerId) -> bool:
        original = world.hosts[world.peers.index(peer)]
        return peer in self.members and not original.lies

    def figures(self, _world: World) -> Mapping[str, float]:
        return {
            "bytes of a door": self.scales.heaviest,
            "strangers": len(self.strangers),
        }


def door_of(host: Host) -> Door:
    """Return the door on ``host``, which has power."""
    return running(host, Door)
