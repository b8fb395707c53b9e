"""Our replicas, asked for the same as documents of other libraries in ``crdt_docs``.

python -m sims.bench.peers.crdt_log
"""

import random
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.identity.openings import Opening, check_opening
from p2p.machine import Told, Up
from p2p.state.bodies import Count
from p2p.state.chain import Entry, Kind
from p2p.state.exchange import segment_of
from p2p.state.held import Pen
from p2p.state.logs import Logs
from p2p.state.messages import News, encode
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import TOPIC, Habits
from sims.bench.crdt_mesh import FOUNDING, WHEN_S, Mesh, members
from sims.bench.peers.answers import answer
from sims.bench.peers.crdt_docs import (
    CLONED,
    batches_of,
    flipped,
    name,
    parted,
)

NOBODY = "somebody"  # who hands messages on
OPENINGS = partial(check_opening, network=FOUNDING.network)


class Replicas:
    """What the bench asks for, done with our replicas."""

    def __init__(self) -> None:
        self.kept: Replica | None = None

    def write(self, many: int, batch: int, size_bytes: int) -> float:
        """Return the CPU seconds that writing takes, folded at the end."""
        replica = founder()
        batches = [entries(names) for names in batches_of(many, batch, size_bytes)]
        began = time.process_time()
        for said in batches:
            replica.write([(entry.kind, entry.body) for entry in said])
        state_of(replica)
        return time.process_time() - began

    def check(self, many: int, batch: int, size_bytes: int) -> float:
        """Return the CPU seconds that taking in what was written takes."""
        source = Logs(FOUNDING.network, MemoryLogStore(), OPENINGS)
        opening = [Entry(Kind.OPENING, FOUNDING.encode())]
        batches = [entries(names) for names in batches_of(many, batch, size_bytes)]
        told = [body for said in (opening, *batches) for body in news(source, said)]
        replica = founder(number=1)
        began = time.process_time()
        for body in told:
            replica.step(0.0, Told(NOBODY, TOPIC, body))
        state = state_of(replica)
        took_s = time.process_time() - began
        if len(state) != many:
            raise AssertionError(f"{len(state)} of {many} entries have come through")
        return took_s

    def keep(self, many: int, size_bytes: int) -> int:
        """Hold a replica of many entries; return how many."""
        self.kept = founder()
        for names in batches_of(many, 100, size_bytes):
            self.kept.write([(entry.kind, entry.body) for entry in entries(names)])
        return len(state_of(self.kept))

    def join(self, many: int, size_bytes: int) -> int:
        """Return the bytes of all that one who is new is told."""
        mesh = Mesh.of(2)
        first = next(iter(mesh.replicas.values()))
        for names in batches_of(many, 100, size_bytes):
            first.write([(entry.kind, entry.body) for entry in entries(names)])
        mesh.level()
        return mesh.sent_bytes

    def gossip(self, peers: int, each: int, size_bytes: int) -> dict[str, float]:
        """Let everybody write, and everybody ask somebody, until all are level."""
        mesh = Mesh.of(peers)
        numbers = [range(at * each, (at + 1) * each) for at in range(peers)]
        said = [entries([name(n, size_bytes) for n in some]) for some in numbers]
        mesh.fill(said)
        began = time.process_time()
        rounds = mesh.level()
        took_s = time.process_time() - began
        return {"rounds": rounds, "s": took_s, "bytes": mesh.sent_bytes}

    def clone(self, peers: int, each: int) -> dict[str, int]:
        """Let two replicas write under one key; see ``parted``."""
        mesh = Mesh.of(peers)
        mesh.fill([entries([name(number, 12)]) for number in range(peers)])
        mesh.level()
        victim = list(mesh.replicas)[CLONED]
        copy = copied(mesh.replicas[victim], CLONED)
        join(mesh, f"{victim} again", copy)
        mesh.level()
        if not copy.ready:
            raise AssertionError("the copy would write a log of its own")
        for at, replica in enumerate((mesh.replicas[victim], copy), 1):
            said = entries([name(1000 * at + n, 12) for n in range(each)])
            replica.write([(entry.kind, entry.body) for entry in said])
        for _ in range(3):
            mesh.level()
        states = [frozenset(state_of(r)) for r in mesh.replicas.values()]
        return parted(states, peers + 2 * each)

    def forge(self, count: int) -> int:
        """Return how many entries count that were written in another's name."""
        source, victim, judge = settled()
        thief = Pen(Key(b"\7" * 32), victim)
        for number in range(count):
            for new in source.say(thief, entries([name(1000 + number, 12)])):
                body = encode(News(source.root(), (), [segment_of(new)]))
                shown(judge, body)
        return len(state_of(judge)) - 1

    def flip(self, count: int) -> int:
        """Return how many messages with one wrong bit changed what they say."""
        source, opening, judge = settled()
        names = [name(1000 + n, 12) for n in range(16)]
        before = state_of(judge)
        pen = Pen(members_of(1)[0], opening)
        [body] = news(source, entries(names), pen)
        honest, misled = before | dict.fromkeys(names, 1), 0
        good = copied(judge, 0)
        shown(good, body)
        if state_of(good) != honest:
            raise AssertionError("the message as it was does not count")
        for wrong in flipped(body, count):
            fresh = copied(judge, 0)
            shown(fresh, wrong)
            misled += state_of(fresh) not in (before, honest)
        return misled


def members_of(number: int) -> tuple[Key, bytes]:
    """Return the key and opening of a member; number 0 is the founder."""
    return next(islice(members(number + 1), number, None))


def replica_of(number: int, store: MemoryLogStore, *, fresh: bool = False) -> Replica:
    """Return the replica of a member, on ``store``."""
    key, opening = members_of(number)
    dice, habits = random.Random(number), Habits(fresh=fresh)
    wall = partial(float, WHEN_S)
    return Replica(key, FOUNDING.network, opening, store, dice, wall, habits)


def founder(number: int = 0) -> Replica:
    """Return the first replica of the founder, or of another member."""
    return replica_of(number, MemoryLogStore(), fresh=True)


def copied(replica: Replica, number: int) -> Replica:
    """Return what starts on a copy of the disk of a member."""
    store = replica.logs.store
    assert isinstance(store, MemoryLogStore)  # noqa: S101 - as was made
    store.commit()
    return replica_of(number, store.copy())


def join(mesh: Mesh, peer: str, replica: Replica) -> None:
    """Let a replica meet all others."""
    mesh.replicas[peer] = replica
    for other in mesh.replicas:
        if other != peer:
            mesh.queue += [(other, Up(peer)), (peer, Up(other))]
    mesh.run()


def settled() -> tuple[Logs, Opening, Replica]:
    """Return a writer's logs and opening, and a replica that has one entry of it."""
    key, opening = members_of(1)
    proof = OPENINGS(opening)
    source, judge = Logs(FOUNDING.network, MemoryLogStore(), OPENINGS), founder()
    pen = Pen(key, proof)
    for said in ([Entry(Kind.OPENING, opening)], entries([name(0, 12)])):
        for body in news(source, said, pen):
            judge.step(0.0, Told(NOBODY, TOPIC, body))
    return source, proof, judge


def news(source: Logs, said: Sequence[Entry], pen: Pen | None = None) -> list[bytes]:
    """Sign and add entries; return the messages that tell of them."""
    pen = pen or Pen(members_of(0)[0], OPENINGS(FOUNDING.encode()))
    told = []
    for new in source.say(pen, said):
        source.add(new)
        told.append(encode(News(source.root(), (), [segment_of(new)])))
    return told


def shown(replica: Replica, body: bytes) -> None:
    """Tell a replica something, which it may refuse."""
    try:
        replica.step(0.0, Told(NOBODY, TOPIC, body))
    except ProtocolError:
        return


def entries(names: Sequence[str]) -> list[Entry]:
    """Return entries with these names."""
    return [Entry(Kind.COUNT, Count(each, 1).encode()) for each in names]


def state_of(replica: Replica) -> dict[str, int]:
    """Return all entries, folded."""
    return {each: tally.total for each, tally in replica.view.counters.items()}


if __name__ == "__main__":
    ours = Replicas()
    acts = ("write", "check", "keep", "join", "gossip", "clone", "forge", "flip")
    answer({act: getattr(ours, act) for act in acts})
