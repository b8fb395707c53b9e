"""What the text of an address says: where it leads, and how near that is.

Addresses come from strangers, so only the few forms that are ever dialled are read,
in their one spelling; everything else is refused by name::

    /ip4/192.168.1.7/tcp/4001[/ws][/p2p/<peer>]
    /ip6/2001:db8::1/tcp/4001[/ws][/p2p/<peer>]
    /dns/relay.example.org/tcp/4001[/ws][/p2p/<peer>]       also dns4 and dns6
    <any of them, with a peer>/p2p-circuit/p2p/<peer>
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import IntEnum

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown
from p2p.circuit import parted
from p2p.identity.keys import public_of

MAX_CHARS = 320
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    r"(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # behind a provider's NAT


class Reach(IntEnum):
    """How near a place is; nearer ones are dialled first."""

    HERE = 0  # this machine
    LAN = 1
    PUBLIC = 2
    NAMED = 3  # by a DNS name: wherever that leads
    RELAYED = 4


@dataclass(frozen=True, slots=True)
class Place:
    """An address that has been read.

    Attributes:
        text: the whole address.
        reach: how near it is.
        host: an IP address, or a DNS name.
        port: TCP port, 1 to 65535.
        peer: who is there; None when the address does not say.
        relay: who passes us on; None when nobody does.
    """

    text: str
    reach: Reach
    host: str
    port: int
    peer: PeerId | None = None
    relay: PeerId | None = None


def read_place(text: str) -> Place:
    """Return what ``text`` says.

    Raises:
        ProtocolError: it is not one of the forms above, or names a place where nobody
            can be: a wildcard, a multicast group, port 0.
    """
    if type(text) is not str or len(text) > MAX_CHARS:
        raise ProtocolError(f"an address of more than {MAX_CHARS} characters")
    circuit = parted(text)
    if circuit is None:
        return _direct(text, text)
    way, peer = circuit
    place = _direct(way, text)
    if place.peer is None:
        raise ProtocolError(f"{shown(text)} does not name its relay")
    public_of(peer)
    return Place(text, Reach.RELAYED, place.host, place.port, peer, place.peer)


def host_in(text: str | None) -> str | None:
    """Return the IP address that ``text`` leads to directly; None if it does not."""
    try:
        place = read_place(text or "")
    except ProtocolError:
        return None
    return place.host if place.reach <= Reach.PUBLIC else None


def _direct(way: str, text: str) -> Place:
    parts = way.split("/")
    if parts[5:6] == ["ws"]:
        del parts[5]
    peer = parts[6] if parts[5:6] == ["p2p"] and len(parts) == 7 else None
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise ProtocolError(f"{shown(text)} is no address of a form we dial")
    if len(parts) == 7:
        public_of(peer or "")
    if not _PORT.fullmatch(parts[4]) or int(parts[4]) > 65535:
        raise ProtocolError(f"{shown(text)} has no TCP port from 1 to 65535")
    reach = _reach(parts[1], parts[2], text)
    return Place(text, reach, parts[2], int(parts[4]), peer)


def _reach(kind: str, host: str, text: str) -> Reach:
    if kind in ("dns", "dns4", "dns6"):
        if not _HOST.fullmatch(host):
            raise ProtocolError(f"{shown(text)} has no DNS name in small letters")
        return Reach.NAMED
    ip = _ip(kind, host)
    if ip is None or str(ip) != host or "%" in host:
        raise ProtocolError(f"{shown(text)} has no IP address in its usual spelling")
    if ip.is_unspecified or ip.is_multicast or ip == ipaddress.ip_address(0xFFFFFFFF):
        raise ProtocolError(f"{shown(text)}: nobody can be at {host}")
    if ip.is_loopback:
        return Reach.HERE
    shared = ip.version == 4 and ip in _SHARED
    return Reach.LAN if ip.is_private or ip.is_link_local or shared else Reach.PUBLIC


def _ip(kind: str, host: str) -> _IP | None:
    try:
        if kind == "ip4":
            return ipaddress.IPv4Address(host)
        return ipaddress.IPv6Address(host) if kind == "ip6" else None
    except ValueError:
        return None
