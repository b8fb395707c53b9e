"""Replicas under a seeded scheduler: loss, doubles, delays, cuts and crashes."""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from fedcore.errors import ProtocolError
from fedcore.strategy import PeerId
from p2p.identity.invites import Invite, Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.network import found
from p2p.identity.openings import open_with
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Note,
    Refuse,
    Tell,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.state.chain import Kind
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import Habits

WHEN_S = 1_700_000_000.0
FOUNDER = Key(sha256(b"founder").digest())
FOUNDING = found("test", FOUNDER, WHEN_S, bytes(16))
NETWORK = FOUNDING.network


@cache
def opening_of(number: int, role: str = "peer") -> tuple[Key, bytes]:
    """Return the key and the opening of a member; number 0 is the founder."""
    if not number:
        return FOUNDER, FOUNDING.encode()
    key = Key(sha256(f"member {number}".encode()).digest())
    return key, open_with(_invite(role), key, WHEN_S)


@cache
def _invite(role: str) -> Invite:
    secret = Key(sha256(f"invite {role}".encode()).digest())
    return read_invite(invite(FOUNDING.encode(), FOUNDER, Terms(role), WHEN_S, secret))


@dataclass(frozen=True)
class Faults:
    """What goes wrong with messages: shares of them, and delays in seconds."""

    drop: float = 0.0
    double: float = 0.0
    delay_s: tuple[float, float] = (0.01, 0.1)


@dataclass
class Node:
    """One machine: a replica, its disk, and whether it runs."""

    name: PeerId
    number: int
    store: MemoryLogStore
    replica: Replica | None = None
    life: int = 0
    notes: list[Note] = field(default_factory=list)


@dataclass
class World:
    """A network of replicas; the same seed gives the same history."""

    seed: int
    count: int
    faults: Faults = Faults()
    period_s: float = 1.0
    fresh: bool = True
    roles: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now_s, self.sent_bytes, self.serial = 0.0, 0, 0
        self.queue: list[tuple[float, int, Node, int, Event]] = []
        self.cut: set[frozenset[int]] = set()
        self.refused: list[ProtocolError] = []
        self.back: dict[int, tuple[Node, int, Ask]] = {}
        self.starts = 0
        self.nodes: list[Node] = []
        for number in range(self.count):
            self.nodes.append(self.node(number, MemoryLogStore()))
        for node in self.nodes:
            self.start(node, fresh=self.fresh)

    def node(self, number: int, store: MemoryLogStore) -> Node:
        key, _ = opening_of(number, self.roles.get(number, "peer"))
        return Node(key.peer, number, store)

    def start(self, node: Node, *, fresh: bool = False) -> None:
        """Start a replica on what is on the node's disk."""
        key, opening = opening_of(node.number, self.roles.get(node.number, "peer"))
        node.life += 1
        self.starts += 1
        draw = random.Random(f"{self.seed} {node.number} {self.starts}")
        keys = lambda: Key(draw.randbytes(32))  # noqa: E731
        habits = Habits(fresh, self.period_s, fresh_key=keys)
        node.replica = Replica(
            key, NETWORK, opening, node.store, draw, lambda: WHEN_S, habits
        )
        self.post(self.now_s, node, Woken())
        for other in self.nodes:
            if other is not node and other.replica and other.name != node.name:
                self.post(self.now_s, node, Up(other.name))
                self.post(self.now_s, other, Up(node.name))

    def crash(self, node: Node) -> None:
        """Stop a node; what was not committed is gone."""
        node.replica = None
        node.store.crash()
        for other in self.nodes:
            self.post(self.now_s, other, Down(node.name, "crashed"))

    def write(self, node: Node, said: Sequence[tuple[Kind, bytes]]) -> None:
        assert node.replica is not None
        self.carry_out(node, node.replica.write(said))

    def post(self, at_s: float, node: Node, event: Event) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (at_s, self.serial, node, node.life, event))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self.queue and self.queue[0][0] <= until_s:
            self.now_s, _, node, life, event = heapq.heappop(self.queue)
            if node.replica is None or life != node.life:
                if isinstance(event, Asked):
                    self.fail(event.ticket)
                continue
            try:
                effects = node.replica.step(self.now_s, event)
            except ProtocolError as error:
                self.refused.append(error)
                if isinstance(event, Asked):
                    effects = [Refuse(event.ticket, str(error))]
                else:
                    continue
            self.carry_out(node, effects)
        self.now_s = until_s

    def carry_out(self, node: Node, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Wake(at_s):
                    self.post(at_s, node, Woken())
                case Note():
                    node.notes.append(effect)
                case Tell(peer, topic, body):
                    self.tell(node, peer, topic, body)
                case Ask():
                    self.ask(node, effect)
                case Answer(ticket, body):
                    self.answer(node, ticket, body)
                case Refuse(ticket, why):
                    self.refuse(node, ticket, why)

    def tell(self, node: Node, peer: PeerId, topic: str, body: bytes) -> None:
        self.sent_bytes += len(body)
        for other in self.reach(node, peer):
            for _ in range(1 + self.happens(self.faults.double)):
                self.later(other, Told(node.name, topic, body))

    def ask(self, node: Node, ask: Ask) -> None:
        self.sent_bytes += len(ask.body)
        others = self.reach(node, ask.peer)
        self.serial += 1
        self.back[self.serial] = (node, node.life, ask)
        if not others:
            return self.fail(self.serial)
        event = Asked(node.name, ask.topic, ask.body, self.serial)
        self.later(self.rng.choice(others), event)

    def answer(self, node: Node, ticket: int, body: bytes) -> None:
        asker, life, ask = self.back[ticket]
        self.sent_bytes += len(body)
        if asker not in self.reach(node, asker.name):
            self.fail(ticket)
        elif life == asker.life:
            del self.back[ticket]
            self.later(asker, Answered(ask.peer, ask.ticket, body))

    def fail(self, ticket: int) -> None:
        """Let the asker know that there will be no answer."""
        asker, life, ask = self.back.pop(ticket)
        if life == asker.life:
            lost = Failed(ask.peer, ask.ticket, True, "lost")
            self.post(self.now_s + 1.0, asker, lost)

    def refuse(self, node: Node, ticket: int, why: str) -> None:
        asker, life, ask = self.back.pop(ticket)
        if life == asker.life:
            self.later(asker, Failed(ask.peer, ask.ticket, False, why))

    def reach(self, node: Node, peer: PeerId) -> list[Node]:
        """Return the nodes called ``peer`` that a message reaches now."""
        if self.happens(self.faults.drop):
            return []
        return [
            other
            for other in self.nodes
            if other.name == peer
            and other.replica
            and frozenset((node.number, other.number)) not in self.cut
        ]

    def later(self, node: Node, event: Event) -> None:
        self.post(self.now_s + self.rng.uniform(*self.faults.delay_s), node, event)

    def happens(self, share: float) -> bool:
        return share > 0 and self.rng.random() < share

    def roots(self) -> set[str]:
        return {node.replica.root() for node in self.nodes if node.replica}

    def settle(self, within_s: float = 60.0) -> float:
        """Heal everything and wait until all are level; return how long it took."""
        self.faults, self.cut, began_s = Faults(), set(), self.now_s
        while self.now_s < began_s + within_s:
            self.run(self.now_s + 0.5)
            if len(self.roots()) == 1:
                return self.now_s - began_s
        raise AssertionError(f"seed {self.seed}: not level after {within_s} s")
