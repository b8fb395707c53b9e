"""NAT-PMP: twelve bytes to the router, and a port is open.

``request_*`` and ``read_*`` are the protocol, without a socket; ``NatPmp`` speaks it.

Source: RFC 6886. Requests begin with version 0 and an operation; replies have 128
added to that, a result (0 = done) and the seconds since the router's start::

    outer address   00 00                              -> 00 80 result(2) since(4) ip(4)
    map TCP         00 02 0000 inner(2) outer(2) life(4) -> 00 82 result(2) since(4)
                                                          inner(2) outer(2) life(4)
"""

import ipaddress
import socket
import struct
import time
from dataclasses import dataclass

from fedcore.errors import PeerLostError, ProtocolError
from p2p.mapping.way import Mapping

PORT = 5351
FIRST_WAIT_S = 0.25  # doubled at each try, as the RFC says, but only so often
TRIES = 4
MAX_LIFE_S = 7 * 86400
_ADDRESS, _TCP, _REPLY = 0, 2, 128
_RESULTS = {
    1: "it speaks another version",
    2: "it does not allow mappings; look for NAT-PMP in its settings",
    3: "it has no connection to the outside itself",
    4: "it has no port left",
    5: "it does not know the request",
}


def request_address() -> bytes:
    """Return the question for the router's outer address."""
    return struct.pack(">BB", 0, _ADDRESS)


def request_mapping(inner: int, outer: int, life_s: int) -> bytes:
    """Return the request for TCP port ``outer``, or any; ``life_s`` 0 removes it."""
    return struct.pack(">BBHHHI", 0, _TCP, 0, inner, outer, life_s)


def read_address(reply: bytes) -> str:
    """Return the outer IP address.

    Raises:
        ProtocolError: the router refused, or ``reply`` is no such reply.
    """
    (raw,) = _body(reply, _ADDRESS, ">4s")
    return str(ipaddress.IPv4Address(raw))


def read_mapping(reply: bytes, inner: int) -> tuple[int, int]:
    """Return the outer port for port ``inner`` and its life in seconds.

    Raises:
        ProtocolError: the router refused, or ``reply`` is no such reply.
    """
    for_port, outer, life_s = _body(reply, _TCP, ">HHI")
    if for_port != inner:
        raise ProtocolError(f"the router answered for port {for_port}, not {inner}")
    return outer, min(life_s, MAX_LIFE_S)


def _body(reply: bytes, operation: int, form: str) -> tuple[int, ...]:
    if len(reply) < 4 or reply[:2] != bytes([0, _REPLY + operation]):
        raise ProtocolError("the router's reply is not of NAT-PMP")
    (result,) = struct.unpack(">H", reply[2:4])
    if result:
        why = _RESULTS.get(result, f"result {result}")
        raise ProtocolError(f"the router refused: {why}")
    if len(reply) != 8 + struct.calcsize(form):
        raise ProtocolError(f"the router's reply has {len(reply)} bytes")
    return struct.unpack(form, reply[8:])


@dataclass(frozen=True, slots=True)
class NatPmp:
    """A ``Way``: the router at ``gateway``, an IPv4 address."""

    gateway: str
    udp_port: int = PORT
    name: str = "NAT-PMP"

    def open(self, port: int, life_s: int, wanted: int) -> Mapping:
        with self._socket() as sock:
            host = read_address(_asked(sock, request_address()))
            reply = _asked(sock, request_mapping(port, wanted, life_s))
            outer, granted_s = read_mapping(reply, port)
        if not outer or not granted_s:
            raise ProtocolError("the router mapped no port")
        return Mapping(host, outer, port, granted_s)

    def close(self, mapping: Mapping) -> None:
        with self._socket() as sock:
            request = request_mapping(mapping.inner_port, 0, 0)
            read_mapping(_asked(sock, request), mapping.inner_port)

    def _socket(self) -> socket.socket:
        """Return a socket that hears nobody but the router."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.connect((self.gateway, self.udp_port))
        except OSError as error:
            sock.close()
            raise PeerLostError(f"router {self.gateway}: {error.strerror}") from error
        return sock


def _asked(sock: socket.socket, request: bytes) -> bytes:
    """Send ``request`` until a reply to it comes, four times at most."""
    wait_s = FIRST_WAIT_S
    try:
        for _ in range(TRIES):
            sock.send(request)
            reply = _reply(sock, request[1] + _REPLY, wait_s)
            if reply is not None:
                return reply
            wait_s *= 2
    except OSError as error:
        why = f"the router does not speak NAT-PMP: {error.strerror}"
        raise PeerLostError(why) from error
    raise PeerLostError("the router does not answer to NAT-PMP")


def _reply(sock: socket.socket, operation: int, wait_s: float) -> bytes | None:
    """Return the next reply of that operation; late ones to others are dropped."""
    end_s = time.monotonic() + wait_s
    while (left_s := end_s - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            reply = sock.recv(64)
        except TimeoutError:
            return None
        if len(reply) >= 2 and reply[1] in (operation, _REPLY):
            return reply
    return None
