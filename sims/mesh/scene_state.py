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
from p2p.identity.keys import Key
from p2p.identity.removals import removal_of
from p2p.machine import Effect, Machine
from p2p.state.bodies import Count, Presence, Run, Score
from p2p.state.chain import Kind
from p2p.state.fold import View
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import Habits
from sims.mesh.charter import Charter, charter
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.liar import honest
from sims.mesh.place import Place
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
    promised: dict[int, list[str]] = field(default_factory=dict)  # by host
    written: int = 0
    removed: PeerId = ""  # whom the founder has sent away, or tried to
    charter: Charter | None = None

    def build(self, place: Place) -> Machine:
        home = cast(Charter, self.charter)
        store = place.disk.keep("log", MemoryLogStore)

        def fresh_key() -> Key:
            return Key(place.rng.randbytes(32))

        habits = Habits(fresh=place.fresh, fresh_key=fresh_key)
        opening = home.openings[place.index]
        return Replica(
            place.key, home.network, opening, store, place.rng, place.wall, habits
        )

    def begin(self, world: World) -> None:
        self.charter = charter("home", tuple(host.key for host in world.hosts))
        self._write(world, 0)

    def _write(self, world: World, number: int) -> None:
        if world.nemesis.done:
            return
        dice = world.dice("user", number)
        host = dice.choice(world.hosts)
        names = [f"{number}.{i}" for i in range(dice.choice([1, 1, 3, 40]))]
        ready = host.up and replica_of(host).ready
        act = partial(self._say, world, host, names, dice)
        if (ready or dice.random() > PATIENT) and world.call(host, act):
            self.promised.setdefault(host.index, []).extend(names)
            self.written += len(names)
        world.later(
            dice.expovariate(1 / WRITE_S), lambda: self._write(world, number + 1)
        )

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
                said.append((Kind.REMOVAL, _removal(replica, other)))
        return replica.write(said)

    def missing(self, world: World) -> str | None:
        roots = {host.name: replica_of(host).root()[:8] for host in world.honest}
        if len(set(roots.values())) > 1:
            return f"roots {roots}"
        forks = {host.name: _forks(host) for host in world.honest}
        if len(set(map(str, forks.values()))) > 1:
            return f"forks {forks}"
        sums = {host.name: summed(replica_of(host).view) for host in world.honest}
        if len(set(sums.values())) > 1:
            return f"other views in {' '.join(sorted(sums))}"
        sure = {name for host in world.hosts for name in self._sure(world, host)}
        for host in world.honest:
            known = replica_of(host).view.counters
            if lost := sure - {*known}:
                return f"{host.name} lacks {len(lost)} entries such as {min(lost)}"
        return None

    def _sure(self, world: World, host: Host) -> Sequence[str]:
        """Return what ``host`` acknowledged and nothing excuses to be lost."""
        twins = [h for h in world.hosts if h.original == host.original]
        rolled_back = any(h.rolled_back for h in twins)
        if host.lies or host.retired or rolled_back or host.peer == self.removed:
            return ()
        return self.promised.get(host.index, ())

    def figures(self, world: World) -> Mapping[str, float]:
        forks = max((len(_forks(host)) for host in world.honest), default=0)
        return {"entries acknowledged": self.written, "frozen logs": forks}


def _removal(replica: Replica, peer: PeerId) -> bytes:
    """Return the body that sends ``peer`` away, as things stand at ``replica``."""
    logs = replica.logs.by_writer
    openings = [log.opening for log in logs.values() if log.opening]
    lengths = {writer: log.tip.length for writer, log in logs.items()}
    return removal_of("peer", peer, openings, lengths).encode()


def summed(view: View) -> str:
    """Return what is in ``view``, but for what depends on the order of arrival."""
    members = {m.peer: (m.status, m.role, m.writers) for m in view.members.values()}
    scores = {ratee: dict(s) for ratee, s in view.scores.by_ratee.items()}
    parts = (members, scores, dict(view.runs), dict(view.counters), view.lamport)
    return "\n".join(str(sorted(part.items())) for part in parts[:4]) + str(parts[4])


def replica_of(host: Host) -> Replica:
    """Return the replica on ``host``, which has power."""
    return cast(Replica, honest(cast(Machine, host.machine)))


def _forks(host: Host) -> dict[str, int]:
    """Return where each frozen log ends."""
    logs = sorted(replica_of(host).logs.by_writer.items())
    return {writer: log.fork.position for writer, log in logs if log.fork}
