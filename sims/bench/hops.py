"""Machines on a network of virtual time: delays, losses and deaths drawn from a seed.

A small scheduler for benchmarks and property tests of one protocol with many peers;
``sims.mesh`` runs whole nodes under every kind of fault.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedcore.errors import ProtocolError
from fedcore.strategy import PeerId
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Machine,
    Refuse,
    Tell,
    Ticket,
    Told,
    Up,
    Wake,
    Woken,
)


@dataclass
class Hops:
    """Machines by peer id, and what will happen to them when.

    Attributes:
        seed: fixes everything.
        drop: probability that a message, of each direction, is lost.
        delay_s: shortest and longest way of a message.
        bytes_s: what a peer sends in a second; by peer, and by default unlimited.
        told: effects that are no business of a network, with who had them.
        asks: number of ``Ask`` and ``Tell`` effects, by the first byte of the body.
        sent_bytes: of all bodies, by sender.
    """

    seed: int = 0
    drop: float = 0.0
    delay_s: tuple[float, float] = (0.01, 0.1)
    bytes_s: dict[PeerId, float] = field(default_factory=dict)
    machines: dict[PeerId, Machine] = field(default_factory=dict)
    told: list[tuple[PeerId, Any]] = field(default_factory=list)
    asks: Counter[int] = field(default_factory=Counter)
    sent_bytes: Counter[PeerId] = field(default_factory=Counter)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._alarm: dict[PeerId, int] = {}
        self._free_s: dict[PeerId, float] = {}  # when the line of a peer is free
        self._asked: dict[int, tuple[PeerId, Ticket, int]] = {}  # to be answered
        self._open: dict[tuple[PeerId, Ticket, int], PeerId] = {}  # by asker
        self._life: Counter[PeerId] = Counter()

    def add(self, peer: PeerId, machine: Machine) -> None:
        """Start a peer, or start it again with another machine."""
        self.machines[peer] = machine
        self._life[peer] += 1
        self._step(peer, Woken())

    def link(self, a: PeerId, b: PeerId) -> None:
        """Let two peers know that they can reach each other."""
        self._step(a, Up(b))
        self._step(b, Up(a))

    def kill(self, peer: PeerId, *, known: bool = True) -> None:
        """Stop a peer; others hear of it now if ``known``, or never."""
        self.machines.pop(peer, None)
        for other in list(self.machines) if known else ():
            self._step(other, Down(peer, "killed"))

    def do(self, peer: PeerId, effects: Sequence[Any]) -> None:
        """Carry out what a machine wants done."""
        for effect in effects:
            match effect:
                case Tell(to, topic, body):
                    self.asks[body[0]] += 1
                    self._carry(peer, to, Told(peer, topic, body), len(body))
                case Ask():
                    self._ask(peer, effect)
                case Answer(ticket, body):
                    self._answer(peer, ticket, body, "")
                case Refuse(ticket, why):
                    self._answer(peer, ticket, None, why)
                case Wake(at_s):
                    self._wake(peer, at_s)
                case _:
                    self.told.append((peer, effect))

    def run(self, until_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let things happen until a time, or ``until`` holds; return if it does."""
        while self._heap and self._heap[0][0] <= until_s and not until():
            self.now_s, _, happen = heapq.heappop(self._heap)
            happen()
        if not until():
            self.now_s = max(self.now_s, until_s)
        return until()

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(at_s, self.now_s), next(self._count), happen))

    def _step(self, peer: PeerId, event: Any) -> None:
        machine = self.machines.get(peer)
        if machine is None:
            return
        try:
            effects = machine.step(self.now_s, event)
        except ProtocolError as error:
            if not isinstance(event, Asked):
                self.told.append((peer, error))
                return
            effects = [Refuse(event.ticket, str(error))]
        self.do(peer, effects)

    def _wake(self, peer: PeerId, at_s: float) -> None:
        serial = self._alarm[peer] = next(self._count)
        life = self._life[peer]

        def ring() -> None:
            if self._alarm[peer] == serial and self._life[peer] == life:
                self._step(peer, Woken())

        self._at(at_s, ring)

    def _ask(self, peer: PeerId, ask: Ask) -> None:
        self.asks[ask.body[0]] += 1
        mine = (peer, ask.ticket, self._life[peer])
        self._open[mine] = ask.peer
        number = next(self._count)
        self._asked[number] = mine
        event = Asked(peer, ask.topic, ask.body, number)
        self._carry(peer, ask.peer, event, len(ask.body))
        failed = Failed(ask.peer, ask.ticket, True, "too late")
        self._at(self.now_s + ask.timeout_s, lambda: self._close(mine, failed))

    def _answer(
        self, peer: PeerId, number: Ticket, body: bytes | None, why: str
    ) -> None:
        mine = self._asked.pop(number)
        event: Any = Failed(peer, mine[1], False, why)
        if body is not None:
            event = Answered(peer, mine[1], body)
        self._send(peer, len(body or b""), lambda: self._close(mine, event))

    def _close(self, mine: tuple[PeerId, Ticket, int], event: Any) -> None:
        if self._open.pop(mine, None) is not None and self._life[mine[0]] == mine[2]:
            self._step(mine[0], event)

    def _carry(self, peer: PeerId, to: PeerId, event: Any, size_bytes: int) -> None:
        self._send(peer, size_bytes, lambda: self._step(to, event))

    def _send(self, peer: PeerId, size_bytes: int, arrive: Callable[[], None]) -> None:
        """Put a message on the line of ``peer``; it may be lost on the way."""
        self.sent_bytes[peer] += size_bytes
        begin_s = max(self.now_s, self._free_s.get(peer, 0.0))
        rate = self.bytes_s.get(peer, 0.0)
        self._free_s[peer] = begin_s + (size_bytes / rate if rate else 0.0)
        delay_s, lost = self._dice.uniform(*self.delay_s), self._dice.random()
        if lost >= self.drop:
            self._at(self._free_s[peer] + delay_s, arrive)
