"""The state (``/state/1``): all replicas end alike, and nothing acknowledged is lost.

Users count things under names of their own, which all replicas must know in the end.
What may be lost is said in ``p2p.state.author``: what an old copy of a disk took back,
and what nobody but a machine that is gone for ever had heard.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from fedcore.names import PeerId
from p2p.machine import Effect, Machine
from p2p.state.bodies import Count, Presence, Run, Score
from p2p.state.chain import Kind
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from sims.mesh.charter import Charter, charter
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.level import forks_of, lacking, parted, removal
from sims.mesh.liar import running
from sims.mesh.place import Place
from sims.mesh.users import Promises, users
from sims.mesh.world import World

WRITE_S = 1.5  # between two writes of all users
PATIENT = 0.8  # share of writes that wait until the replica is ready


@dataclass
class StateScene:
    """See the module."""

    nodes: int = 5
    minutes: float = 1.0
    settle_s: float = 180.0
    faults: Faults = ALL
    promised: Promises = field(default_factory=Promises)
    removed: PeerId = ""  # whom the founder has sent away, or tried to
    charter: Charter | None = None

    def build(self, place: Place) -> Machine:
        home = cast(Charter, self.charter)
        store = place.disk.keep("log", MemoryLogStore)
        ours = home.network, home.openings[place.index]
        return Replica(place.key, *ours, store, place.rng, place.wall, place.habits())

    def begin(self, world: World) -> None:
        self.charter = charter("home", tuple(host.key for host in world.hosts))
        users(world, WRITE_S, self._write)

    def _write(
        self, world: World, dice: random.Random, number: int, host: Host
    ) -> None:
        names = [f"{number}.{i}" for i in range(dice.choice([1, 1, 3, 40]))]
        ready = host.up and replica_of(host).ready
        act = partial(self._say, world, host, names, dice)
        if (ready or dice.random() > PATIENT) and world.call(host, act):
            self.promised.add(host, names)

    def _say(
        self,
        world: World,
        host: Host,
        names: Sequence[str],
        dice: random.Random,
        machine: Machine,
        _now_s: float,
    ) -> Sequence[Effect]:
        """Count each of ``names`` once, and say something else besides."""
        replica, other = cast(Replica, machine), dice.choice(world.peers)
        said = [(Kind.COUNT, Count(name, 1).encode()) for name in names]
        lamport = replica.view.lamport + 1
        match dice.randrange(8):
            case 0:
                score = Score(other, lamport, dice.randrange(1_000_000))
                said.append((Kind.SCORE, score.encode()))
            case 1:
                kind = dice.choice([Kind.LEAVE, Kind.RETURN])
                said.append((kind, Presence(lamport).encode()))
            case 2 if host.original == 0:
                run = Run("run", lamport, f"spec {dice.random()}")
                said.append((Kind.RUN, run.encode()))
            case 3 if host.original == 0 and not self.removed and other != host.peer:
                self.removed = other
                said.append((Kind.REMOVAL, removal(replica, other)))
        return replica.write(said)

    def missing(self, world: World) -> str | None:
        unequal = parted({h.name: replica_of(h) for h in world.honest})
        sure = self.promised.sure(world, world.hosts, {self.removed})
        return unequal or lacking({h.name: replica_of(h) for h in world.honest}, sure)

    def figures(self, world: World) -> Mapping[str, float]:
        frozen = [len(forks_of(replica_of(host))) for host in world.honest]
        return {
            "entries acknowledged": self.promised.count,
            "frozen logs": max(frozen, default=0),
        }


def replica_of(host: Host) -> Replica:
    """Return the replica on ``host``, which has power."""
    return running(host, Replica)
