"""A peer that sends what it likes: an honest machine with a hand over its mouth.

It has a key and an invitation like all others, so the wires say truly whose words these
are, and those who hear them must find out what is wrong with them.
"""

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fedcore.errors import ProtocolError
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Effect,
    Event,
    Failed,
    Machine,
    Refuse,
    Tell,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.mesh import Mesh
from p2p.nat.effects import Dialled, UpBy
from sims.mesh.host import Host
from sims.mesh.place import Place
from sims.mesh.trace import Trace

MUTATES, REPLAYS, GARBLES, REFUSES, REPEATS, FLOODS, MUTE, REDIRECTS = (
    1 << i for i in range(8)
)
SHARE = 0.3  # of what it sends
FLOOD = 40  # messages at once
FLOOD_S = 2.0
KEPT = 64
M = TypeVar("M")


def honest(machine: Any) -> Any:
    """Return the machine under the hands of liars and intruders, or itself."""
    while isinstance(machine, Liar | Intruder):
        machine = machine.inner
    return machine


def running(host: Host, kind: type[M]) -> M:
    """Return the machine on ``host``, which has power, as it was before any lies."""
    machine = honest(host.machine)
    assert isinstance(machine, kind)  # noqa: S101 - scenes know what they have built
    return machine


class Intruder:
    """Takes everybody whom it meets for a member, whatever the door says.

    Args:
        inner: a whole peer; its owner has no place in the network of the others.
    """

    def __init__(self, inner: Mesh) -> None:
        self.inner = inner

    @property
    def topics(self) -> Collection[str]:
        return self.inner.topics

    def step(self, now_s: float, event: Any) -> Sequence[Any]:
        """Let the peer act, and speak at once to whom it has met."""
        effects = list(self.inner.step(now_s, event))
        if isinstance(event, Up | UpBy | Dialled):
            for name, part in self.inner.members.items():
                said = part.step(now_s, Up(event.peer))
                effects += self.inner.do(name, now_s, said)
        return effects


class Liar:
    """Runs ``inner`` and lies about it.

    Args:
        inner: an honest machine.
        place: where it lives.
        lies: what it does, a sum of the constants of this module.
        trace: counts its lies.
    """

    def __init__(self, inner: Machine, place: Place, lies: int, trace: Trace) -> None:
        self.inner, self.lies, self.trace = inner, lies & 0xFF or MUTATES, trace
        self.rng = random.Random(place.rng.random())
        self.victims = [peer for peer in place.peers if peer != place.peer]
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self.tickets = 1 << 60  # of its own questions
        self.inner_s, self.flood_s = 0.0, 0.0

    @property
    def topics(self) -> Collection[str]:
        return self.inner.topics

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Let the honest machine act, then change what it says."""
        if isinstance(event, Told | Asked):
            self.heard.append((event.topic, event.body))
        out = [e for effect in self._inner(now_s, event) for e in self._said(effect)]
        if now_s >= self.flood_s:
            self.flood_s = now_s + FLOOD_S * self.rng.uniform(0.5, 2)
            out += self._flood() if self.lies & FLOODS else []
        return [*out, Wake(min(self.inner_s, self.flood_s))]

    def _inner(self, now_s: float, event: Event) -> Sequence[Effect]:
        if isinstance(event, Answered | Failed) and event.ticket >= 1 << 60:
            return ()
        if isinstance(event, Woken):
            if now_s < self.inner_s:
                return ()
            self.inner_s = float("inf")
        try:
            effects = self.inner.step(now_s, event)
        except ProtocolError as error:
            if not isinstance(event, Asked):
                return ()
            return [Refuse(event.ticket, str(error))]
        for effect in effects:
            self.inner_s = effect.at_s if isinstance(effect, Wake) else self.inner_s
        return [effect for effect in effects if not isinstance(effect, Wake)]

    def _said(self, effect: Effect) -> list[Effect]:
        if not isinstance(effect, Tell | Ask | Answer) or self.rng.random() > SHARE:
            return [effect]
        self.trace.count("lie")
        return self._lied(effect)

    def _lied(self, effect: Tell | Ask | Answer) -> list[Effect]:
        kind = self.rng.choice([1 << i for i in range(8) if self.lies >> i & 1])
        if kind == REFUSES and isinstance(effect, Answer):
            return [Refuse(effect.ticket, "\x00" * self.rng.randrange(5000))]
        if kind == MUTE and isinstance(effect, Tell | Answer):
            return []
        if kind == REPEATS and isinstance(effect, Tell):
            return [effect] * 3
        if kind == REDIRECTS and isinstance(effect, Tell | Ask) and self.victims:
            return [replace(effect, peer=self.rng.choice(self.victims))]
        return [replace(effect, body=self._body(kind, effect.body))]

    def _body(self, kind: int, body: bytes) -> bytes:
        if kind == REPLAYS and self.heard:
            return self.rng.choice(self.heard)[1]
        if kind == GARBLES:
            return self.rng.randbytes(self.rng.choice([0, 1, 7, 100, 5000]))
        return self.mutated(body)

    def mutated(self, body: bytes) -> bytes:
        """Return ``body`` with a bit flipped, bytes cut, added or made extreme."""
        data, at = bytearray(body), self.rng.randrange(len(body) + 1)
        match self.rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << self.rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = self.rng.randbytes(self.rng.randint(1, 9))
            case 3:
                data[at : at + 9] = b"\xff" * 9
            case _:
                data += data[:at]
        return bytes(data)

    def _flood(self) -> list[Effect]:
        """Return many messages: what was heard, changed or not, to anybody."""
        if not (self.victims and self.heard):
            return []
        return [self._missile() for _ in range(FLOOD)]

    def _missile(self) -> Effect:
        topic, body = self.rng.choice(self.heard)
        peer = self.rng.choice(self.victims)
        body = self.mutated(body) if self.rng.random() < 0.5 else body
        self.trace.count("flood")
        if self.rng.random() < 0.5:
            return Tell(peer, topic, body)
        self.tickets += 1
        return Ask(peer, topic, body, self.tickets, 10.0)
