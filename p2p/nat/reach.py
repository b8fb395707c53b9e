"""Everything about ways to peers, as one machine: ``Paths``, ``Direct`` and ``Berths``.

What one of them wants of another stays inside; what is left for the driver is asking
and answering, ``Dial``, ``Punch``, one alarm and notes.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from fedcore.names import PeerId
from p2p.machine import Answered, Asked, Failed, Note, Ticket, Wake
from p2p.nat import direct, grants
from p2p.nat.berths import Berths, SpliceDesk
from p2p.nat.direct import Direct
from p2p.nat.effects import Dial, NatEffect, NatEvent, NotOpened, Open, Relays
from p2p.nat.paths import Paths

T = TypeVar("T")


@dataclass
class Reach:
    """The machine; see ``p2p.nat.effects`` for what it takes and wants.

    Attributes:
        paths: whom to be connected with, and how.
        direct: signalling of data connections.
        berths: leave to use relays.
        desk: gives such leave, if we are a relay.
    """

    paths: Paths
    direct: Direct
    berths: Berths
    desk: SpliceDesk | None = None
    _alarms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        me: PeerId,
        certificate: bytes,
        rng: random.Random,
        desk: SpliceDesk | None = None,
        tickets: Iterator[Ticket] | None = None,
    ) -> "Reach":
        """Return the machine of a peer.

        Args:
            me: our peer id.
            certificate: ours for TLS, DER, at most 2 KiB.
            rng: makes tokens and spreads attempts; ``random.SystemRandom`` in
                production.
            desk: gives leave to splice, if we are a relay.
            tickets: fresh numbers, when other machines must not use the same.
        """
        numbers = tickets if tickets is not None else count(1)
        berths = Berths(numbers, rng)
        signalling = Direct(me, certificate, berths, numbers, rng)
        return cls(Paths(me, numbers, rng), signalling, berths, desk)

    @property
    def topics(self) -> tuple[str, ...]:
        """What comes here."""
        return (direct.TOPIC, grants.TOPIC) if self.desk else (direct.TOPIC,)

    @property
    def words(self) -> Mapping[PeerId, str]:
        """The way to every wanted peer, in words."""
        return self.paths.words

    def step(self, now_s: float, event: NatEvent) -> Sequence[NatEffect]:
        """Take ``event``.

        Raises:
            ProtocolError: a peer broke the rules; nothing changed.
        """
        if isinstance(event, Asked) and event.topic == grants.TOPIC and self.desk:
            return self.desk.step(now_s, event)
        effects = self._signalled(now_s, self.direct.step(now_s, event))
        if isinstance(event, Relays | Answered | Failed) or self._due("berths", now_s):
            effects += self._heard("berths", self.berths.step(now_s, event))
        if not isinstance(event, Asked | Answered | Failed):
            effects += self._ordered(now_s, event)
        alarm_s = min(self._alarms.values(), default=None)
        return effects if alarm_s is None else [*effects, Wake(alarm_s)]

    def _due(self, name: str, now_s: float) -> bool:
        return self._alarms.get(name, now_s + 1) <= now_s

    def _ordered(self, now_s: float, event: NatEvent) -> list[NatEffect]:
        """Tell ``Paths``, and ``Direct`` what it orders."""
        effects: list[NatEffect] = []
        wishes: list[Dial | Open | Note] = []
        wishes += self._heard("paths", self.paths.step(now_s, event))
        for wish in wishes:
            if isinstance(wish, Open):
                effects += self._signalled(now_s, self.direct.step(now_s, wish))
            else:
                effects.append(wish)
        return effects

    def _signalled(
        self, now_s: float, effects: Iterable[NatEffect | NotOpened]
    ) -> list[NatEffect]:
        """Tell ``Paths`` of orders that ended before they began."""
        out: list[NatEffect] = []
        for effect in effects:
            if isinstance(effect, NotOpened):
                out += self._ordered(now_s, effect)
            else:
                out.append(effect)
        return out

    def _heard(self, name: str, effects: Iterable[T | Wake]) -> list[T]:
        """Keep the alarm among ``effects``, return the others."""
        self._alarms.pop(name, None)
        others: list[T] = []
        for effect in effects:
            if isinstance(effect, Wake):
                self._alarms[name] = effect.at_s
            else:
                others.append(effect)
        return others
