"""TCP sockets that share one local port, as holes in a NAT need them."""

import socket
from contextlib import suppress
from typing import Any

from p2p.nat.addresses import Address

SCARCE_S = 0.05  # pause when no descriptor is left, in which others may be closed
BACKLOG = 1024  # who comes in a crowd is not to wait a second for the next try
ANY4, ANY6 = "0.0.0.0", "::"  # noqa: S104 - every way in
_ANY = {socket.AF_INET: ANY4, socket.AF_INET6: ANY6}
_ANSWERS = 1  # more than one to the first packet of a connection: 3 s in all
_RESET = b"\x01\0\0\0\0\0\0\0"  # linger for no time: close with a reset


def family_of(address: Address) -> socket.AddressFamily:
    """Return the family of sockets that can dial ``address``."""
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def bound(family: socket.AddressFamily, port: int, host: str = "") -> socket.socket:
    """Return a non-blocking TCP socket bound to ``port``, which others may share.

    Args:
        family: of the Internet protocol.
        port: the port.
        host: the only address of this machine to use; all of them if empty.

    Raises:
        OSError: the port belongs to another program.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host or _ANY[family], port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def listening(server: socket.socket) -> None:
    """Take connections, and soon forget those that only begin.

    While the system answers a packet that came too late to meet ours, by default for
    a minute, it refuses to dial the place from which it came.
    """
    if hasattr(socket, "TCP_SYNCNT"):
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _ANSWERS)
    server.listen(BACKLOG)


def kept_alive(sock: socket.socket, *, idle_s: int = 20) -> None:
    """Keep the mappings of NATs on the way, and notice a dead path within a minute."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": idle_s, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    for name, value in {**options, "TCP_USER_TIMEOUT": 30_000}.items():
        if hasattr(socket, name):  # each system knows some of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def dropped(sock: socket.socket) -> None:
    """Close at once and for both, so that the two ports can be joined anew."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def woken(server: socket.socket) -> None:
    """Let the thread that waits for connections of ``server`` look up, at its end."""
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def remote(sock: socket.socket) -> Address | None:
    """Return the other end's address, or None when it is gone."""
    try:
        return address_of(sock.getpeername())
    except OSError:
        return None


def address_of(place: tuple[Any, ...]) -> Address:
    """Return what a socket calls ``place``, without the interface of IPv6."""
    return Address(place[0].partition("%")[0], place[1])
