"""Leave to use splice relays: asked for in time by peers, given out by relays.

``Berths`` is a peer's side: for every relay it is connected to it keeps a grant that
will not expire soon. ``SpliceDesk`` is a relay's. Both speak ``/splice/1``.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Effect,
    Event,
    Failed,
    Note,
    Ticket,
    Wake,
)
from p2p.nat.addresses import Address, seen_from
from p2p.nat.effects import NatEvent, Relays, Splice
from p2p.nat.grants import TOPIC, WANTED, Grant, Warden, encode_grant, read_grant
from p2p.nat.offer import MOST_SPLICES

ASK_S = 10.0
_AGAIN_S, _AGAIN_MOST_S = 5.0, 300.0


@dataclass
class SpliceDesk:
    """Grants circuits to every peer that may ask at all. A ``Machine``.

    Attributes:
        warden: shared with the ``SpliceRelay``.
        addresses: where the relay listens, as others can dial it; may change.
        wall: seconds, as for ``SpliceRelay``; expiry is the relay's affair only.
    """

    warden: Warden
    addresses: tuple[Address, ...]
    wall: Callable[[], float]
    topics: tuple[str, ...] = (TOPIC,)

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Answer ``Asked``; nothing else means anything here.

        Raises:
            ProtocolError: the question is none.
        """
        if not isinstance(event, Asked):
            return []
        if event.body != WANTED:
            raise ProtocolError(f"{event.peer} asks for a splice in unknown words")
        grant = self.warden.grant(event.peer, self.addresses, self.wall())
        return [Answer(event.ticket, encode_grant(grant))]


@dataclass
class _Berth:
    due_s: float
    fails: int = 0
    ticket: Ticket | None = None
    grant: Grant | None = None
    until_s: float = 0.0


@dataclass
class Berths:
    """Keeps grants of relays. A machine that takes ``Relays`` besides the usual.

    Attributes:
        tickets: fresh numbers for questions.
        rng: spreads renewals.
    """

    tickets: Iterator[Ticket]
    rng: random.Random
    _of: dict[PeerId, _Berth] = field(default_factory=dict)
    _hosts: Mapping[PeerId, str] = field(default_factory=dict)

    def step(self, now_s: float, event: NatEvent) -> Sequence[Effect]:
        """Take ``event``; return questions to relays, and the next alarm.

        A relay whose answer is no grant is asked again later.
        """
        if isinstance(event, Relays):
            self._meet(now_s, event.peers)
            self._hosts = event.hosts
        notes: list[Effect] = []
        if isinstance(event, Answered | Failed):
            notes = self._answered(now_s, event)
        return notes + self._ask_due(now_s)

    def splices(self, token: bytes, now_s: float) -> tuple[Splice, ...]:
        """Return what to offer for the circuit that ``token`` names."""
        found = [
            Splice(
                relay,
                seen_from(address, self._hosts.get(relay)),
                berth.grant.ticket(token),
            )
            for relay, berth in sorted(self._of.items())
            if berth.grant is not None and berth.until_s > now_s
            for address in berth.grant.addresses[:1]
        ]
        return tuple(found[:MOST_SPLICES])

    def _meet(self, now_s: float, relays: Sequence[PeerId]) -> None:
        for gone in set(self._of) - set(relays):
            del self._of[gone]
        for relay in relays:
            self._of.setdefault(relay, _Berth(now_s))

    def _ask_due(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for relay, berth in self._of.items():
            if berth.ticket is None and berth.due_s <= now_s:
                berth.ticket = next(self.tickets)
                effects.append(Ask(relay, TOPIC, WANTED, berth.ticket, ASK_S))
        waits = [berth.due_s for berth in self._of.values() if berth.ticket is None]
        return [*effects, Wake(min(waits))] if waits else effects

    def _answered(self, now_s: float, event: Answered | Failed) -> list[Effect]:
        berth = self._of.get(event.peer)
        if berth is None or berth.ticket != event.ticket:
            return []
        berth.ticket = None
        if isinstance(event, Failed):
            return [self._refused(berth, now_s, event.peer, event.why)]
        try:
            grant = read_grant(event.body)
        except ProtocolError as error:
            return [self._refused(berth, now_s, event.peer, str(error))]
        berth.grant, berth.fails = grant, 0
        berth.until_s = now_s + grant.lifetime_s
        berth.due_s = now_s + grant.lifetime_s * self.rng.uniform(0.4, 0.6)
        return []

    def _refused(self, berth: _Berth, now_s: float, relay: PeerId, why: str) -> Note:
        berth.fails = min(berth.fails + 1, 16)
        wait_s = min(_AGAIN_S * 2**berth.fails, _AGAIN_MOST_S)
        berth.due_s = now_s + wait_s * self.rng.uniform(0.5, 1.5)
        return Note("no-splice", f"no leave to splice: {why}", relay)
