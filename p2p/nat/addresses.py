"""Where a data port may be reached, and as what: six or eighteen bytes each."""

import ipaddress
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from fedcore.errors import ProtocolError
from fedcore.names import shown
from fedcore.wire import Reader

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Kind = Literal["lan", "public", "mapped", "observed"]

KINDS: tuple[Kind, ...] = get_args(Kind)  # in order of preference
LOWEST_PORT = 1024  # a data port is never a service of the system
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # between a provider's NAT and ours


class Address(NamedTuple):
    """One end of a TCP connection: an IP address in its shortest text, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address that may lead to a peer's data port.

    Attributes:
        kind: "lan" of one of its own private interfaces, "public" of one of its own
            public ones, "mapped" by its router on request, or "observed" by others.
        address: the address.
    """

    kind: Kind
    address: Address


def ip_of(host: str) -> Ip:
    """Return ``host`` as an IP address.

    Raises:
        ProtocolError: it is no IP address in its one spelling.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError as error:
        raise ProtocolError(f"{shown(host)} is not an IP address") from error
    if str(ip) != host:
        raise ProtocolError(f"{shown(host)} is not the short spelling of {ip}")
    return ip


def is_private(ip: Ip) -> bool:
    """Return whether ``ip`` means different machines in different networks."""
    return not ip.is_loopback and (ip in _SHARED or ip.is_private)


def seen_from(told: Address, reached: str | None) -> Address:
    """Return where a server is that says to be at ``told``, as we can dial it.

    A machine in a cloud, or behind a router, may not know its public address: then it
    is the IP address at which we have ``reached`` it, if we have, that counts.
    """
    if reached is None or not is_private(ip_of(told.host)):
        return told
    return told if is_private(ip_of(reached)) else Address(reached, told.port)


def fault_of_ip(ip: Ip) -> str | None:
    """Return why nobody may be asked to dial ``ip``; None if they may."""
    if ip.is_multicast or str(ip) == "255.255.255.255":
        return "reaches many machines"
    if ip.is_unspecified or ip.is_reserved or ip.is_link_local:
        return "names no machine"
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.scope_id):
        return "is no plain IPv6 address"
    return None


def encode_address(address: Address) -> bytes:
    """Return ``address`` as a length of 4 or 16, its IP, and its port.

    Raises:
        ProtocolError: the host is no IP address, or the port no number of a port.
    """
    raw = ip_of(address.host).packed
    if not 0 < address.port < 1 << 16:
        raise ProtocolError(f"{shown(address.port)} is not the number of a port")
    return bytes([len(raw)]) + raw + address.port.to_bytes(2, "big")


def read_address(reader: Reader) -> Address:
    """Return the next address, of any kind of IP.

    Raises:
        ProtocolError: the bytes are no address.
    """
    size = reader.take(1)[0]
    if size not in (4, 16):
        raise ProtocolError(f"an address of {size} bytes")
    ip = ipaddress.ip_address(bytes(reader.take(size)))
    port = int.from_bytes(reader.take(2), "big")
    if not port:
        raise ProtocolError("port 0 in an address")
    return Address(str(ip), port)


def encode_candidate(candidate: Candidate) -> bytes:
    """Return the kind, then the address."""
    return bytes([KINDS.index(candidate.kind)]) + encode_address(candidate.address)


def read_candidate(reader: Reader) -> Candidate:
    """Return the next candidate; whether to dial it is another question.

    Raises:
        ProtocolError: the bytes are no candidate.
    """
    kind = reader.take(1)[0]
    if kind >= len(KINDS):
        raise ProtocolError(f"an address of unknown kind {kind}")
    return Candidate(KINDS[kind], read_address(reader))
