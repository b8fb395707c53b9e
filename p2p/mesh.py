"""A whole peer as one machine: who is there, how it is reached, what all agree on.

Parts, each a protocol of its own: the *door* (who may speak), the *pulse* (who is
alive, and where), the *state* (what is agreed on), the *swarm* (content), the *lookup*
(who has what), the *reach* (ways to peers). Here is only what one of them must know of
another: nobody but members comes past the door, and the addresses that the pulse hears
are where the reach dials.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.composed import Composed
from p2p.machine import Asked, Down, HangUp, Machine, Told, Up, Wake, Woken
from p2p.members import door as doors
from p2p.members.door import Door
from p2p.members.effects import Admitted, TurnedAway
from p2p.members.places import host_in
from p2p.nat.effects import (
    Book,
    Closed,
    Dialled,
    Here,
    Narrow,
    NotDialled,
    Opened,
    Relays,
    Unwanted,
    UpBy,
)
from p2p.nat.reach import Reach
from p2p.relaying import Guests

TICK_S = 1.0
DOORSTEP_S = 60.0  # how long a stranger may stay connected
GOODBYE_S = doors.PATIENCE_S + 2.0  # for who is turned away, to ask and hear why
Addresses = Mapping[PeerId, tuple[str, ...]]
Act = Callable[[float], Iterable[Any]]
Hears = Callable[[float, Any], Iterable[Any] | None]


@dataclass(frozen=True, slots=True)
class Tick:
    """A second has passed: an effect that never leaves the mesh."""


@dataclass
class Ticking:
    """A part that makes a ``Tick`` every second."""

    topics: Collection[str] = ()

    def step(self, now_s: float, event: object) -> Sequence[Any]:
        """Tick when woken."""
        return [Tick(), Wake(now_s + TICK_S)] if isinstance(event, Woken) else ()


@dataclass
class _Known:
    """How it stands with one peer.

    Attributes:
        control: whether libp2p is connected to it.
        channel: whether there is a data channel.
        relay: through whom libp2p is connected, if not directly.
        place: where that connection leads, as a multiaddr, if it is known.
        greeted: what the reach shall hear once the door has let the peer in.
        since_s: when it came.
    """

    control: bool = False
    channel: bool = False
    relay: PeerId | None = None
    place: str | None = None
    greeted: Dialled | UpBy | None = None
    since_s: float = 0.0


@dataclass
class Mesh:
    """The machine. It takes the events of ``p2p.nat.effects`` besides the usual.

    Attributes:
        door, reach: see the module.
        members: the parts for members only, by name: pulse, state, swarm, lookup.
        addresses: returns whom to be connected with, and where; asked every second.
        hears: called with every effect on its way out; returns None to let it go, or
            what shall go in its place.
        sees: called with every event before the parts are.
        tasks: what is to be done every second; return effects as from ``do``.
        relays: peers that were named to us as relays, members or not.
    """

    door: Door
    reach: Reach
    members: Mapping[str, Machine]
    addresses: Callable[[], Addresses] = dict
    hears: Hears = lambda *_: None
    sees: Callable[[Any], object] = lambda _: None
    tasks: Sequence[Act] = ()
    relays: set[PeerId] = field(default_factory=set)
    _peers: dict[PeerId, _Known] = field(default_factory=dict)
    _booked: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)
    _relays_here: Relays = field(default_factory=lambda: Relays(()))
    _leaving: dict[PeerId, tuple[float, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.guests = Guests()
        parts: dict[str, Any] = {"door": self.door, "reach": self.reach}
        parts |= {**self.members, "guests": self.guests, "ticking": Ticking()}
        self.all = Composed(parts)

    @property
    def topics(self) -> Collection[str]:
        return self.all.topics

    def inside(self) -> Collection[PeerId]:
        """Return the members that can be asked now."""
        return self.door.members().keys()

    def step(self, now_s: float, event: Any) -> Sequence[Any]:
        """Take ``event``; see ``Machine``."""
        self.sees(event)
        match event:
            case Told() | Asked():
                self._check_inside(event)
                effects = self.all.step(now_s, event)
            case Up() | UpBy() | Dialled():
                effects = self._connected(now_s, event)
            case Down() | Closed():
                effects = self._lost(now_s, event)
            case Opened():
                self._of(event.peer).channel = True
                effects = self.all.step(now_s, event)
            case Book() | Here() | Unwanted() | Relays() | Narrow():
                effects = self.all.feed("reach", now_s, event)
            case _:
                effects = self.all.step(now_s, event)
        return [*self._sifted(now_s, effects), *self.all.alarm()]

    def do(self, part: str, now_s: float, effects: Iterable[Any]) -> list[Any]:
        """Return the effects of a call to one of our parts, ready for the wires."""
        taken = self.all.take(part, list(effects))
        return [*self._sifted(now_s, taken), *self.all.alarm()]

    def _check_inside(self, event: Told | Asked) -> None:
        if event.topic != doors.TOPIC and not self.door.admits(event.peer):
            raise ProtocolError("you have not come past the door")

    def _of(self, peer: PeerId) -> _Known:
        return self._peers.setdefault(peer, _Known())

    # Who can be reached

    def _connected(self, now_s: float, event: Up | UpBy | Dialled) -> list[Any]:
        """Let the door see a peer first; the reach hears of it once it is inside."""
        known = self._of(event.peer)
        known.since_s = known.since_s or now_s
        known.control, known.relay = True, getattr(event, "relay", None)
        if isinstance(event, UpBy):
            known.place = event.place
        effects = self.all.feed("door", now_s, Up(event.peer))
        if event.peer in self.relays:  # not at the next tick: others wait for it
            effects += self._relays_met(now_s)
        heard = event if isinstance(event, Dialled) else UpBy(event.peer, known.relay)
        if self.door.admits(event.peer):
            return effects + self._reach_hears(now_s, heard)
        if not isinstance(known.greeted, Dialled):  # that one ends an attempt
            known.greeted = heard
        return effects

    def _reach_hears(self, now_s: float, event: Any) -> list[Any]:
        """Tell the reach; what came of its own request goes by its ticket."""
        if hasattr(event, "ticket"):
            return list(self.all.step(now_s, event))
        return self.all.feed("reach", now_s, event)

    def _lost(self, now_s: float, event: Down | Closed) -> list[Any]:
        known = self._of(event.peer)
        if isinstance(event, Down):
            known.control = False
        else:
            known.channel = False
        effects = self._given_up(now_s, event.peer, event.why)
        effects += self.all.feed("reach", now_s, event)
        if known.control or known.channel:
            return effects
        del self._peers[event.peer]
        gone = Down(event.peer, event.why)
        for name in ("door", "guests", *self.members):
            effects += self.all.feed(name, now_s, gone)
        return effects

    def _given_up(self, now_s: float, peer: PeerId, why: str) -> list[Any]:
        """End the reach's attempt at a peer that did not come past the door."""
        greeted, known = None, self._peers.get(peer)
        if known is not None:
            greeted, known.greeted = known.greeted, None
        if not isinstance(greeted, Dialled):
            return []
        return self._reach_hears(now_s, NotDialled(peer, greeted.ticket, why))

    # What parts say to each other

    def _sifted(self, now_s: float, effects: Iterable[Any]) -> list[Any]:
        """Return what is for the wires; the rest is dealt with here."""
        out: list[Any] = []
        left = deque(effects)
        while left:
            effect = left.popleft()
            match effect:
                case Tick():
                    left.extend(self._ticked(now_s))
                    continue
                case Admitted(peer=peer) if peer is not None:
                    left.extend(self._admitted(now_s, peer))
                case TurnedAway(peer=peer) if peer is not None:
                    left.extend(self._turned_away(now_s, peer, effect.words))
                    if peer in self.relays:
                        continue
            more = self.hears(now_s, effect)
            out += [effect] if more is None else []
            left.extend(more or ())
        return out

    def _admitted(self, now_s: float, peer: PeerId) -> list[Any]:
        known = self._of(peer)
        effects = self._book(now_s, peer, self.addresses().get(peer, ()))
        if peer in self.relays:  # one that serves members only has refused us before
            self.guests.again(peer)
            effects += self._relays_met(now_s)
        greeted, known.greeted = known.greeted, None
        if greeted is not None:
            effects += self._reach_hears(now_s, greeted)
        for name in self.members:
            effects += self.all.feed(name, now_s, Up(peer))
        return effects

    def _turned_away(self, now_s: float, peer: PeerId, why: str) -> list[Any]:
        effects = self._given_up(now_s, peer, why)
        for name in self.members:
            effects += self.all.feed(name, now_s, Down(peer, why))
        if peer not in self.relays:  # it may relay without being a member
            self._leaving[peer] = now_s + GOODBYE_S, why
        return effects

    def _ticked(self, now_s: float) -> list[Any]:
        """Tell the reach whom to reach, and which relays are here."""
        wanted = self.addresses()
        effects: list[Any] = []
        for peer in [p for p in self._booked if p not in wanted]:
            del self._booked[peer]
            effects += self.all.feed("reach", now_s, Unwanted(peer))
        for peer, places in wanted.items():
            effects += self._book(now_s, peer, places)
        effects += self._relays_met(now_s) + self._hung_up(now_s)
        return effects + [e for task in self.tasks for e in task(now_s)]

    def _relays_met(self, now_s: float) -> list[Any]:
        """Tell the reach which relays are here, and ask for their services."""
        here = tuple(sorted(p for p in self.relays if self._is_up(p)))
        found = {peer: host_in(self._peers[peer].place) for peer in here}
        met = Relays(here, {peer: host for peer, host in found.items() if host})
        effects: list[Any] = []
        if met != self._relays_here:
            self._relays_here, self.guests.hosts = met, met.hosts
            effects += self.all.feed("reach", now_s, met)
        return effects + self.all.take("guests", self.guests.look(now_s, here))

    def _hung_up(self, now_s: float) -> list[Any]:
        """End the connections of who was told to go, and of who never came inside."""
        for peer, known in self._peers.items():
            if now_s - known.since_s > DOORSTEP_S and not self._may_stay(peer):
                self._leaving.setdefault(peer, (now_s, "did not come past the door"))
        due = [peer for peer, (at_s, _) in self._leaving.items() if at_s <= now_s]
        gone = [(peer, self._leaving.pop(peer)[1]) for peer in due]
        return [HangUp(peer, why) for peer, why in gone if not self.door.admits(peer)]

    def _may_stay(self, peer: PeerId) -> bool:
        return self.door.admits(peer) or peer in self.relays

    def _book(self, now_s: float, peer: PeerId, places: tuple[str, ...]) -> list[Any]:
        if self._booked.get(peer) == places:
            return []
        self._booked[peer] = places
        return self.all.feed("reach", now_s, Book(peer, places))

    def _is_up(self, peer: PeerId) -> bool:
        known = self._peers.get(peer)
        return known is not None and known.control
