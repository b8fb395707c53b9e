"""The smallest machine worth a simulation: peers agree on the largest number set.

A number that ``set`` has acknowledged is never forgotten, and all peers end with the
largest. It shows how a scene is written, and proves that the simulator finds bugs.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Told,
    Up,
    Wake,
    Woken,
)

TOPIC = "/register/1"
GOSSIP_S = 1.0
LARGEST = 1 << 32


@dataclass
class NumberStore:
    """Keeps one number; ``put`` may be lost until ``commit``."""

    value: int = 0
    committed: int = 0

    def put(self, value: int) -> None:
        self.value = value

    def commit(self) -> None:
        self.committed = self.value

    def crash(self) -> None:
        self.value = self.committed

    def get(self) -> int:
        return self.value


@dataclass
class Register:
    """Keeps the largest number that anybody has set.

    Attributes:
        store: remembers it through a crash.
        rng: chooses whom to ask.
    """

    store: NumberStore
    rng: random.Random
    peers: dict[PeerId, None] = field(default_factory=dict)
    ticket: int = 0

    @property
    def topics(self) -> Collection[str]:
        return (TOPIC,)

    @property
    def value(self) -> int:
        """The largest number known here."""
        return self.store.get()

    def set(self, value: int) -> Sequence[Effect]:
        """Remember ``value``, in [0, 2^32), for ever."""
        if value > self.store.get():
            self.store.put(value)
            self.store.commit()
        return ()

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Take ``event``; see ``Machine``."""
        match event:
            case Up():
                self.peers[event.peer] = None
            case Down():
                self.peers.pop(event.peer, None)
            case Told() | Answered():
                self.set(_number(event.body))
            case Asked():
                self.set(_number(event.body))
                return [Answer(event.ticket, _bytes(self.value))]
            case Woken():
                return [*self._gossip(), Wake(now_s + GOSSIP_S)]
        return ()

    def _gossip(self) -> list[Effect]:
        if not self.peers:
            return []
        self.ticket += 1
        peer = self.rng.choice(list(self.peers))
        return [Ask(peer, TOPIC, _bytes(self.value), self.ticket, 5.0)]


def _bytes(value: int) -> bytes:
    """Return a number followed by its complement: a mutation is found out."""
    return value.to_bytes(4, "big") + (LARGEST - 1 - value).to_bytes(4, "big")


def _number(body: bytes) -> int:
    value = int.from_bytes(body[:4], "big")
    if body != _bytes(value):
        raise ProtocolError("not a number of the register")
    return value
