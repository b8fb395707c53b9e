"""A small network of fixed keys, and machines that talk without a wire."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.network import found
from p2p.identity.openings import open_with
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Machine,
    Note,
    Refuse,
    Tell,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.members.door import Door
from p2p.members.judging import Policy

NOW = 1_700_000_000
DAY = 86400
FOUNDER, ANN, BOB, EVE, GUEST, WRITER = (Key(bytes([n]) * 32) for n in range(1, 7))
SECRET = Key(b"s" * 32)
FOUNDING = found("digits", FOUNDER, NOW, bytes(16))
ROOT = FOUNDING.encode()
NET = FOUNDING.network
ANYBODY = Policy()


def address(key: Key, host: str = "192.0.2.1") -> str:
    return f"/ip4/{host}/tcp/4001/p2p/{key.peer}"


def text(role="peer", opening=ROOT, key=FOUNDER, lasts_s=DAY, secret=SECRET, to=()):
    return invite(opening, key, Terms(role, lasts_s, to), NOW, secret)


def joined(key, role="peer", opening=ROOT, issuer=FOUNDER, secret=SECRET, now=NOW):
    """Return the opening of ``key``, invited by ``issuer``."""
    return open_with(read_invite(text(role, opening, issuer, secret=secret)), key, now)


def line_of(count: int) -> list[tuple[Key, bytes]]:
    """Return the founder and ``count`` admins, each invited by the one before."""
    out = [(FOUNDER, ROOT)]
    for n in range(count):
        key = Key(bytes([100 + n]) * 32)
        opening = joined(
            key, "admin", out[-1][1], out[-1][0], Key(bytes([50 + n]) * 32)
        )
        out.append((key, opening))
    return out


def door(key, opening, policy=ANYBODY, seed=0, wall=NOW, network=NET, program="1.0"):
    return Door(
        key, network, opening, policy, random.Random(seed), lambda: wall, program
    )


def kinds(notes, kind):
    return [(at, peer, note) for at, peer, note in notes if note.kind == kind]


@dataclass
class Wires:
    """Runs machines on a virtual clock; every message takes ``delay_s``.

    Attributes:
        machines: by peer.
        loses: whether a message is lost.
        notes: everything noted: when, by whom, what.
        asks: the body of every question: who asked whom, and what.
    """

    machines: dict[str, Machine]
    delay_s: float = 0.05
    loses: Callable[[], bool] = lambda: False
    notes: list[tuple[float, str, Note]] = field(default_factory=list)
    asks: list[tuple[str, str, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    told_bytes: int = 0
    now_s: float = 0.0

    def __post_init__(self):
        self._queue, self._count, self._alarms = [], 0, {}

    def at(self, at_s, peer, event):
        self._count += 1
        heapq.heappush(self._queue, (at_s, self._count, peer, event))

    def connect(self, *pairs, at_s=0.0):
        for a, b in pairs:
            self.at(at_s, a, Up(b))
            self.at(at_s, b, Up(a))

    def cut(self, a, b):
        self.at(self.now_s, a, Down(b))
        self.at(self.now_s, b, Down(a))

    def run(self, until_s):
        while self._queue and self._queue[0][0] <= until_s:
            at_s, _, peer, event = heapq.heappop(self._queue)
            stale = isinstance(event, Woken) and self._alarms.get(peer, at_s) != at_s
            if peer in self.machines and peer not in self.dead and not stale:
                self.now_s = at_s
                self._step(peer, event)
        self.now_s = until_s

    def _step(self, peer, event):
        try:
            effects = self.machines[peer].step(self.now_s, event)
        except ProtocolError as error:
            self.faults.append(str(error))
            effects = []
            if isinstance(event, Asked):
                effects = [Refuse(event.ticket, str(error))]
        for effect in effects:
            self.do(peer, effect)

    def do(self, peer, effect):
        late_s = self.now_s + self.delay_s
        match effect:
            case Tell():
                self.told_bytes += len(effect.body)
                if not self.loses():
                    self.at(late_s, effect.peer, Told(peer, effect.topic, effect.body))
            case Ask():
                self.asks.append((peer, effect.peer, effect.body))
                ticket = (peer, effect.ticket)
                if effect.peer in self.dead or effect.peer not in self.machines:
                    lost = Failed(effect.peer, effect.ticket, True, "gone")
                    self.at(self.now_s + effect.timeout_s, peer, lost)
                else:
                    asked = Asked(peer, effect.topic, effect.body, ticket)
                    self.at(late_s, effect.peer, asked)
            case Answer(ticket, body):
                self.at(late_s, ticket[0], Answered(peer, ticket[1], body))
            case Refuse(ticket, why):
                self.at(late_s, ticket[0], Failed(peer, ticket[1], False, why))
            case Wake():
                if self._alarms.get(peer) != effect.at_s:
                    self._alarms[peer] = effect.at_s
                    self.at(effect.at_s, peer, Woken())
            case Note():
                self.notes.append((self.now_s, peer, effect))
