"""What a relay and its clients share: messages, streams and circuit addresses."""

import ipaddress
from contextlib import suppress
from typing import NamedTuple, TypeVar

import trio
from google.protobuf.message import Message
from libp2p.abc import IHost, IMuxedConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg
from multiaddr import Multiaddr

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown
from p2p.circuit import is_circuit, parted
from p2p.identity.keys import public_of

HOP = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
MAX_CHARS = 512  # of an address
MAX_ID_BYTES = 64
MESSAGE_S = 10.0  # longest wait for one message of a peer
_Kind = TypeVar("_Kind", bound=Message)


class CircuitAddress(NamedTuple):
    """``relay`` is a dialable address that ends with the relay's id."""

    relay: str
    relay_peer: PeerId
    peer: PeerId


def read_circuit(address: str) -> CircuitAddress:
    """Return the parts of ``<relay>/p2p/<its id>/p2p-circuit/p2p/<peer>``.

    Raises:
        ProtocolError: it is not such an address.
    """
    circuit = parted(address)
    if len(address) > MAX_CHARS or circuit is None or "/" in circuit[1]:
        raise ProtocolError(f"{shown(address)} is no circuit address")
    relay, relay_peer = read_relay(circuit[0])
    return CircuitAddress(relay, relay_peer, _peer(circuit[1]))


def read_relay(address: str) -> tuple[str, PeerId]:
    """Return a relay's address, ``<place>/p2p/<its id>``, and the id in it.

    Raises:
        ProtocolError: it is not such an address.
    """
    place, _, peer = address.rpartition("/p2p/")
    if len(address) > MAX_CHARS or not place or is_circuit(place):
        wrong = "is no address of a relay that ends with its peer id"
        raise ProtocolError(f"{shown(address)} {wrong}")
    try:
        return f"{Multiaddr(place)}/p2p/{_peer(peer)}", _peer(peer)
    except ValueError as error:
        raise ProtocolError(f"{shown(address)}: {shown(str(error))}") from error


def _peer(text: str) -> PeerId:
    public_of(text)
    return text


def peer_of_bytes(raw: bytes) -> PeerId:
    """Return the peer id in a message.

    Raises:
        ProtocolError: it is not the id of an Ed25519 key.
    """
    text = ID(raw).to_base58() if 0 < len(raw) <= MAX_ID_BYTES else ""
    return _peer(text)


async def heard(
    stream: INetStream, kind: type[_Kind], wait_s: float = MESSAGE_S
) -> _Kind:
    """Return the next message of ``stream``: at most 64 KiB, within ``wait_s``."""
    with trio.fail_after(wait_s):
        return await read_delimited_msg(stream, kind)


async def said(stream: INetStream, message: Message) -> None:
    """Send ``message`` within 10 seconds."""
    with trio.fail_after(MESSAGE_S):
        await write_delimited_msg(stream, message)


async def let_go(*streams: INetStream) -> None:
    """End ``streams`` for good, also when we are being cancelled."""
    for stream in streams:
        end_s = trio.current_time() + 1.0
        with trio.CancelScope(deadline=end_s, shield=True), suppress(Exception):
            await stream.reset()


def is_relayed(stream: INetStream) -> bool:
    """Return whether the connection under ``stream`` is itself a circuit."""
    return through_relay(stream.muxed_conn)


def ip_of(stream: INetStream) -> str:
    """Return the address that the connection under ``stream`` comes from."""
    remote = stream.get_remote_address()
    return "" if remote is None else str(remote[0])


def direct(host: IHost, peer: PeerId) -> bool:
    """Return whether ``host`` has a connection to ``peer`` that is no circuit."""
    connections = host.get_network().get_connections(ID.from_base58(peer))
    return not all(through_relay(c.muxed_conn) for c in connections)


def through_relay(connection: IMuxedConn) -> bool:
    """Return whether ``connection`` is a circuit, by its own word, not a note of it."""
    return any(is_circuit(str(a)) for a in connection.get_transport_addresses())


def relay_addresses(host: IHost) -> list[Multiaddr]:
    """Return where others can dial ``host``, with its id; never a wildcard."""
    return [a for a in host.get_addrs() if _concrete(a)]


def _concrete(address: Multiaddr) -> bool:
    text = str(address)
    parts = text.split("/")
    if is_circuit(text) or len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    return not ipaddress.ip_address(parts[2]).is_unspecified


def listening(host: IHost) -> list[tuple[str, int]]:
    """Return the IP addresses and ports that ``host`` listens on with plain TCP."""
    texts = [str(a).partition("/p2p/")[0] for a in host.get_addrs()]
    parts = [text.split("/") for text in texts if not is_circuit(text)]
    return [(p[2], int(p[4])) for p in parts if len(p) == 5 and p[3] == "tcp"]


def source_for(host: IHost, six: bool) -> tuple[str, int] | None:
    """Return from where to dial so that a router sees the port we listen on.

    Args:
        host: who dials.
        six: whether the other end has an IPv6 address.
    """
    fitting = [place for place in listening(host) if (":" in place[0]) == six]
    return fitting[0] if fitting else None
