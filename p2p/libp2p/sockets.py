"""TCP sockets, and the doorway in which strangers wait until they have proved a key.

Departures from the library's own transport:

* It counts an accepted connection until the program ends, also when that is long
  closed. Here the count and the task end with the connection.
* It has no limit on connections that open and say nothing. Here the oldest of them
  makes room, so that honest ones, which are quick, always get in.
* It does not know the remote address of IPv6 connections.
"""

import socket
from typing import cast
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.custom_types import THandler, TMuxerOptions, TSecurityOptions
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.transport.tcp.tcp import TCP, TCPListener
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from fedcore.errors import ConfigError
from p2p.libp2p.muxer import Muxer

UNACKED_MS = 20_000  # the kernel gives up a peer that acknowledges nothing
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only


class Wire(TrioTCPStream):
    """A TCP connection that was accepted."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.life = trio.CancelScope()  # of the task that serves it
        harden(stream.socket)

    async def close(self) -> None:
        await super().close()
        self.life.cancel()

    def get_remote_address(self) -> tuple[str, int] | None:
        try:
            host, port, *_ = self.stream.socket.getpeername()
        except OSError:
            return self._cached_remote_address
        self._cached_remote_address = str(host).removeprefix("::ffff:"), int(port)
        return self._cached_remote_address

    def own_host(self) -> str:
        """Return the address of this machine that it uses; empty if it has ended."""
        try:
            return str(self.stream.socket.getsockname()[0]).removeprefix("::ffff:")
        except OSError:
            return ""


class Doorway:
    """Those who have connected and not yet proved who they are, oldest first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._opening: dict[ReadWriteCloser, trio.CancelScope] = {}

    def __len__(self) -> int:
        return len(self._opening)

    def enter(self, wire: Wire) -> None:
        """Let ``wire`` in; if there are too many, the oldest has to leave."""
        if len(self._opening) >= self.most:
            self._opening.pop(next(iter(self._opening))).cancel()
        self._opening[wire] = wire.life

    def leave(self, wire: ReadWriteCloser) -> None:
        """Forget ``wire``: it has proved who it is, or is gone."""
        self._opening.pop(wire, None)


class Sockets(TCP):
    """The TCP transport."""

    def __init__(self, doorway: Doorway) -> None:
        super().__init__()
        self.doorway = doorway

    async def _dial_resolved(
        self, maddr: Multiaddr, source: tuple[str, int] | None = None
    ) -> IRawConnection:
        raw = cast(RawConnection, await super()._dial_resolved(maddr, source))
        wire = Wire(cast(TrioTCPStream, raw.stream).stream)
        return RawConnection(wire, True)

    def create_listener(self, handler_function: THandler) -> TCPListener:
        async def serve(accepted: ReadWriteCloser) -> None:
            wire = Wire(cast(TrioTCPStream, accepted).stream)
            self.doorway.enter(wire)
            try:
                with wire.life:
                    await handler_function(wire)
            finally:
                self.doorway.leave(wire)

        return TCPListener(serve)


class Upgrader(TransportUpgrader):
    """Makes a raw connection an authenticated one with many streams."""

    def __init__(
        self, security: TSecurityOptions, muxers: TMuxerOptions, doorway: Doorway
    ) -> None:
        super().__init__(security, muxers)
        self.doorway = doorway
        self._hosts: WeakKeyDictionary[ISecureConn, str] = WeakKeyDictionary()

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        secured = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        stream = getattr(raw_conn, "stream", None)
        if isinstance(stream, Wire):
            self.doorway.leave(stream)
            self._hosts[secured] = stream.own_host()
        return secured

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        await self.muxer_multistream.select_transport(conn)  # there is only one
        muxer = Muxer(conn, peer_id, is_initiator=conn.is_initiator)
        muxer.own_host = self._hosts.pop(conn, "")
        return muxer


def harden(sock: trio.socket.SocketType) -> None:
    """Let the kernel notice peers that vanish without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if _USER_TIMEOUT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, UNACKED_MS)


def check_free(address: Multiaddr) -> None:
    """Raise ConfigError if another program listens on the TCP port of ``address``.

    Listening itself would not fail: sockets that punch holes share their port, and two
    nodes on one port would get each other's connections.
    """
    family, host, port = place_of(address)
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {address}: {error.strerror}; choose another "
                "address or port, or end the program that uses it"
            ) from None


def place_of(address: Multiaddr) -> tuple[socket.AddressFamily, str, int]:
    """Return the family, the IP address and the TCP port of ``address``.

    Raises:
        ConfigError: it is not of the form "/ip4/192.168.1.7/tcp/4001".
    """
    parts = str(address).split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise ConfigError(
            f"cannot listen on {address}: write it like /ip4/192.168.1.7/tcp/4001 or "
            "/ip6/::/tcp/4001"
        )
    family = socket.AF_INET if parts[1] == "ip4" else socket.AF_INET6
    return family, parts[2], int(parts[4])
