"""What the machines of this package want done, and how they hear of it.

A driver answers every ``Dial`` with one ``Dialled`` or ``NotDialled``, and every
``Punch`` with one ``Opened`` or ``NotOpened``, of the same ticket and peer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.machine import Effect, Event, Ticket
from p2p.nat.addresses import Address, Candidate
from p2p.nat.candidates import Interface
from p2p.nat.grants import Ticket as Pass
from p2p.nat.kinds import Nat


@dataclass(frozen=True, slots=True)
class Splice:
    """A relay that would join the two peers.

    Attributes:
        relay: its peer id.
        address: where it listens for circuits.
        leave: the ticket to show it.
    """

    relay: PeerId
    address: Address
    leave: Pass


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect the transport to ``peer`` at any of ``addresses``."""

    peer: PeerId
    addresses: tuple[str, ...]
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Punch:
    """Open a data connection to ``peer``, who tries the same at this moment.

    Attributes:
        peer: who.
        ticket: names this request to the driver.
        token: 16 bytes that both sides say first.
        dialer: whether we pick among the connections, and are TLS client.
        certificate: the peer's, DER, as signalled; the channel pins it.
        candidates: where to dial, the best first.
        mine: what we offered, to say in words which way it became.
        splices: relays that would join us; empty if only a direct way is wanted.
        patience_s: how long to prefer a direct way before a spliced one is taken.
        upgrade: a channel to the peer exists; replace it if this one is direct.
        beside: rather leave it: one more is wanted, for much data over a long way.
    """

    peer: PeerId
    ticket: Ticket
    token: bytes
    dialer: bool
    certificate: bytes = field(repr=False)
    candidates: tuple[Candidate, ...]
    mine: tuple[Candidate, ...] = ()
    splices: tuple[Splice, ...] = ()
    patience_s: float = 2.0
    upgrade: bool = False
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Dialled:
    """The transport is connected to ``peer``; ``relay`` if through one.

    Attributes:
        address: where that was, as a multiaddr, if it is known.
    """

    peer: PeerId
    ticket: Ticket
    relay: PeerId | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class NotDialled:
    """No address of the ``Dial`` answered."""

    peer: PeerId
    ticket: Ticket
    why: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A data channel to ``peer`` is up: TLS is made, both sides are proved.

    Attributes:
        path: words, such as "direct (punched)".
        relay: who splices it, or None when it is direct.
        beside: there is another one already, which goes on.
    """

    peer: PeerId
    ticket: Ticket
    path: str
    relay: PeerId | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True)
class NotOpened:
    """The ``Punch`` gave no channel."""

    peer: PeerId
    ticket: Ticket
    why: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The data channel to ``peer`` is gone."""

    peer: PeerId
    why: str = ""


@dataclass(frozen=True, slots=True)
class Narrow:
    """The direct channel to ``peer`` holds much data back: one more might help."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class UpBy:
    """``Up`` with its way: through ``relay``, or directly when that is None.

    Attributes:
        place: where the connection leads, as a multiaddr, if that is known.
    """

    peer: PeerId
    relay: PeerId | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """Where ``peer`` may be dialled: multiaddrs with /p2p/, circuits included."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unwanted:
    """``peer`` shall be connected no longer; forget it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Here:
    """Where we are now; the first one starts us, a different one is a new network."""

    candidates: tuple[Candidate, ...]
    interfaces: tuple[Interface, ...] = ()
    nat: Nat = Nat.UNKNOWN


@dataclass(frozen=True, slots=True)
class Relays:
    """Peers that splice, among those we are connected to.

    Attributes:
        hosts: the IP addresses at which we have reached them, where those are known.
    """

    peers: tuple[PeerId, ...]
    hosts: Mapping[PeerId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open:
    """``Paths`` wants a data channel; ``Direct`` hears it.

    Attributes:
        direct_only: a spliced channel exists already.
        beside: a direct one exists already, and this shall be one more.
    """

    peer: PeerId
    ticket: Ticket
    direct_only: bool = False
    beside: bool = False


NatEvent = (
    Event
    | UpBy
    | Dialled
    | NotDialled
    | Opened
    | NotOpened
    | Closed
    | Narrow
    | Book
    | Unwanted
    | Here
    | Relays
)
NatEffect = Effect | Dial | Punch
