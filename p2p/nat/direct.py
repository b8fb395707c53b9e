"""Signalling of data connections, ``/direct/1``: one offer, one answer, then a punch.

Both sides punch at once: the one asked when it answers, the one who asked when it
hears the answer. When two offers cross, the offer of the smaller peer id stands: its
maker refuses the other, and the other answers it in place of waiting.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.machine import Answer, Answered, Ask, Asked, Failed, Refuse, Ticket
from p2p.nat.addresses import Address
from p2p.nat.berths import Berths
from p2p.nat.candidates import dialable, may_dial
from p2p.nat.effects import (
    Here,
    NatEffect,
    NatEvent,
    NotOpened,
    Open,
    Opened,
    Punch,
    Splice,
)
from p2p.nat.hello import TOKEN_BYTES
from p2p.nat.kinds import Nat, likely
from p2p.nat.offer import MOST_SPLICES, Offer, encode_offer, read_offer

TOPIC = "/direct/1"
ASK_S = 5.0
BUSY = "busy: a connection with you is being opened"
# How long a spliced line waits for a direct one.
LIKELY_S, UNLIKELY_S, HOPELESS_S = 3.0, 1.5, 0.5
_OFFERS_A_MINUTE = 10
_MOST_PEERS = 1024  # whose offers are counted


@dataclass(frozen=True, slots=True)
class _Talk:
    """Our offer, on its way."""

    order: Open
    offer: Offer
    ask: Ticket


@dataclass
class Direct:
    """The machine. It takes ``Open``, ``Here``, ``Opened`` and ``NotOpened`` besides.

    Attributes:
        me: our peer id.
        certificate: ours, DER, to be offered.
        berths: knows which relays would splice for us.
        tickets: fresh numbers for questions and punches.
        rng: makes tokens; give it the machine's best randomness in production.
        parallel: punches at a time; more are refused.
    """

    me: PeerId
    certificate: bytes
    berths: Berths
    tickets: Iterator[Ticket]
    rng: random.Random
    parallel: int = 16
    here: Here | None = None
    _talks: dict[PeerId, _Talk] = field(default_factory=dict)
    _punches: dict[PeerId, Ticket] = field(default_factory=dict)
    _offers: dict[PeerId, list[float]] = field(default_factory=dict)

    def step(
        self, now_s: float, event: NatEvent | Open
    ) -> Sequence[NatEffect | NotOpened]:
        """Take ``event``. A ``NotOpened`` in what returns ends an ``Open`` early.

        Raises:
            ProtocolError: an offer that breaks the rules; nothing changed.
        """
        match event:
            case Here():
                self.here = event
            case Open():
                return self._order(now_s, event)
            case Asked():
                return self._asked(now_s, event)
            case Answered():
                return self._answered(event)
            case Failed():
                return self._failed(event)
            case Opened() | NotOpened():
                if self._punches.get(event.peer) == event.ticket:
                    del self._punches[event.peer]
            case _:
                pass
        return []

    def _order(self, now_s: float, order: Open) -> Sequence[NatEffect | NotOpened]:
        why = self._busy(order.peer)
        if why is not None:
            return [NotOpened(order.peer, order.ticket, why)]
        token = self.rng.randbytes(TOKEN_BYTES)
        offer = self._offer(token, now_s, order.direct_only, order.beside)
        ask = next(self.tickets)
        self._talks[order.peer] = _Talk(order, offer, ask)
        return [Ask(order.peer, TOPIC, encode_offer(offer), ask, ASK_S)]

    def _busy(self, peer: PeerId) -> str | None:
        if self.here is None:
            return "our own addresses are not known yet"
        if peer in self._talks or peer in self._punches:
            return BUSY
        full = len(self._talks) + len(self._punches) >= self.parallel
        return "busy with others" if full else None

    def _offer(
        self, token: bytes, now_s: float, direct_only: bool, beside: bool
    ) -> Offer:
        here = self.here or Here(())
        splices = () if direct_only else self.berths.splices(token, now_s)
        mine = self.certificate, here.candidates, here.nat, splices
        return Offer(token, *mine, direct_only, beside)

    def _asked(self, now_s: float, event: Asked) -> Sequence[NatEffect | NotOpened]:
        theirs = read_offer(event.body)
        self._count(event.peer, now_s)
        talk = self._talks.get(event.peer)
        if talk is not None and self.me < event.peer:
            return [Refuse(event.ticket, BUSY)]
        if talk is None:
            why = self._busy(event.peer)
            if why is not None:
                return [Refuse(event.ticket, why)]
        if any(theirs.token == t.offer.token for t in self._talks.values()):
            raise ProtocolError(f"{event.peer} offers a token of ours")
        self._talks.pop(event.peer, None)
        wishes = theirs.direct_only, theirs.beside
        mine = self._offer(theirs.token, now_s, *wishes)
        order = talk.order if talk else Open(event.peer, next(self.tickets))
        punch = self._punch(order, mine, theirs, dialer=False)
        return [Answer(event.ticket, encode_offer(mine)), punch]

    def _count(self, peer: PeerId, now_s: float) -> None:
        """Count an offer, so that nobody makes us dial without end."""
        recent = [s for s in self._offers.pop(peer, []) if s > now_s - 60]
        if len(self._offers) >= _MOST_PEERS:
            del self._offers[next(iter(self._offers))]
        self._offers[peer] = recent
        if len(recent) >= _OFFERS_A_MINUTE:
            raise ProtocolError(f"{peer} sent {len(recent)} offers within a minute")
        recent.append(now_s)

    def _answered(self, event: Answered) -> Sequence[NatEffect | NotOpened]:
        talk = self._ended(event)
        if talk is None:
            return []
        try:
            theirs = _half_of(talk.offer, event.body)
        except ProtocolError as error:
            return [NotOpened(event.peer, talk.order.ticket, f"{event.peer}: {error}")]
        return [self._punch(talk.order, talk.offer, theirs, dialer=True)]

    def _failed(self, event: Failed) -> Sequence[NatEffect | NotOpened]:
        talk = self._ended(event)
        if talk is None:
            return []
        return [NotOpened(event.peer, talk.order.ticket, event.why)]

    def _ended(self, event: Answered | Failed) -> _Talk | None:
        """Return the talk that ends with ``event``, if it was not given up before."""
        talk = self._talks.get(event.peer)
        if talk is None or talk.ask != event.ticket:
            return None
        return self._talks.pop(event.peer)

    def _punch(self, order: Open, mine: Offer, theirs: Offer, *, dialer: bool) -> Punch:
        here = self.here or Here(())
        self._punches[order.peer] = order.ticket
        return Punch(
            peer=order.peer,
            ticket=order.ticket,
            token=mine.token,
            dialer=dialer,
            certificate=theirs.certificate,
            candidates=dialable(theirs.candidates, here.candidates, here.interfaces),
            mine=here.candidates,
            splices=_joint(here, mine, theirs, dialer=dialer),
            patience_s=_patience_s(mine, theirs),
            upgrade=mine.direct_only or theirs.direct_only,
            beside=mine.beside and theirs.beside,
        )


def _patience_s(mine: Offer, theirs: Offer) -> float:
    if likely(mine.nat, theirs.nat) or (_six(mine) and _six(theirs)):
        return LIKELY_S
    hopeless = mine.nat is theirs.nat is Nat.SYMMETRIC
    return HOPELESS_S if hopeless else UNLIKELY_S


def _six(offer: Offer) -> bool:
    """Return whether a side has a public IPv6 address: no NAT is in its way."""
    found = (c for c in offer.candidates if c.kind == "public")
    return any(":" in c.address.host for c in found)


def _half_of(mine: Offer, body: bytes) -> Offer:
    """Return the other half of ``mine``."""
    theirs = read_offer(body)
    if theirs.token != mine.token:
        raise ProtocolError("an answer to another offer")
    return theirs


def _joint(
    here: Here, mine: Offer, theirs: Offer, *, dialer: bool
) -> tuple[Splice, ...]:
    """Return the relays that both sides ask, in the order both have them."""
    if mine.direct_only or theirs.direct_only:
        return ()
    first, second = (mine, theirs) if dialer else (theirs, mine)
    joint: dict[Address, Splice] = {}
    for splice in (*first.splices, *second.splices):
        known = splice in mine.splices  # by a relay of ours, which may be private
        if may_dial(splice.address, here.interfaces, together=known):
            joint.setdefault(splice.address, splice)
    return tuple(joint.values())[:MOST_SPLICES]
