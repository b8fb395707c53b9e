"""Replicas of one network in one process, without delays: what "crdt" measures."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from fedcore.strategy import PeerId
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.network import found
from p2p.identity.openings import open_with
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Effect,
    Event,
    Tell,
    Told,
    Up,
    Woken,
)
from p2p.state.chain import Entry
from p2p.state.encoding import put_entry
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import TOPIC, Habits

WHEN_S = 1_700_000_000.0
FOUNDER = Key(bytes(32))
FOUNDING = found("bench", FOUNDER, WHEN_S, bytes(16))


@dataclass
class Mesh:
    """Replicas whose messages arrive at once and in order; level at the start."""

    replicas: dict[PeerId, Replica]
    draw: random.Random
    sent_bytes: int = 0
    queue: deque[tuple[PeerId, Event]] = field(default_factory=deque)
    asked: dict[int, tuple[PeerId, Ask]] = field(default_factory=dict)
    tickets: int = 0

    @classmethod
    def of(cls, count: int) -> "Mesh":
        """Return a mesh of new members that know of each other."""
        draw = random.Random(1)
        replicas = {}
        for key, opening in members(count):
            rng, habits = random.Random(draw.random()), Habits(fresh=True)
            replicas[key.peer] = Replica(
                key,
                FOUNDING.network,
                opening,
                MemoryLogStore(),
                rng,
                lambda: WHEN_S,
                habits,
            )
        mesh = cls(replicas, draw)
        for name in replicas:
            mesh.queue += [(name, Up(other)) for other in replicas if other != name]
            mesh.run()
        mesh.level()
        mesh.sent_bytes = 0
        return mesh

    def fill(self, said: Sequence[Sequence[Entry]]) -> int:
        """Let everybody write, and tell nobody yet; return the bytes that are new."""
        new_bytes = 0
        for entries, replica in zip(said, self.replicas.values(), strict=True):
            replica.write([(entry.kind, entry.body) for entry in entries])
            new_bytes += 64 + sum(len(put_entry(entry)) for entry in entries)
        return new_bytes

    def level(self) -> int:
        """Gossip round by round until all are level; return the rounds it took."""
        names = list(self.replicas)
        for number in range(100):
            if len({replica.root() for replica in self.replicas.values()}) == 1:
                return number
            self.draw.shuffle(names)
            for name in names:
                self.queue.append((name, Woken()))
                self.run()
        return 100

    def run(self) -> None:
        """Carry out all that is to be done."""
        while self.queue:
            name, event = self.queue.popleft()
            for effect in self.replicas[name].step(0.0, event):
                self._do(name, effect)

    def _do(self, name: PeerId, effect: Effect) -> None:
        match effect:
            case Tell(peer, _, body):
                self.queue.append((peer, Told(name, TOPIC, body)))
            case Ask(peer, _, body):
                self.tickets += 1
                self.asked[self.tickets] = name, effect
                self.queue.append((peer, Asked(name, TOPIC, body, self.tickets)))
            case Answer(ticket, body):
                asker, ask = self.asked.pop(ticket)
                self.queue.append((asker, Answered(name, ask.ticket, body)))
            case _:
                return
        self.sent_bytes += len(body)


def members(count: int) -> Iterator[tuple[Key, bytes]]:
    """Yield the keys and openings of the founder and ``count - 1`` others."""
    yield FOUNDER, FOUNDING.encode()
    secret = Key(sha256(b"invite").digest())
    line = invite(FOUNDING.encode(), FOUNDER, Terms(), WHEN_S, secret)
    for number in range(1, count):
        key = Key(sha256(f"member {number}".encode()).digest())
        yield key, open_with(read_invite(line), key, WHEN_S)
