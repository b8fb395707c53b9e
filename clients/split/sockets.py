"""Channels over TCP, with TLS if a context is given.

A message is its length, four bytes, little-endian, and then its bytes. A length above
the limit is refused before anything is read or allocated for it.
"""

import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, Lock, Thread, current_thread
from typing import cast

from clients.split.channel import Channel, Dial, Visit, answered
from clients.split.messages import LIMITS, encode, refused
from fedcore.closing import Closing
from fedcore.errors import ConfigError, FedError, PeerLostError, ProtocolError

TIMEOUT_S = 60.0
LEAST_BYTES_PER_S = 10_000.0  # who is slower cannot take part
MOST_VISITS = 64
MOST_PORT = 65_535
_LENGTH = struct.Struct("<I")
_PAUSE_S = 0.1  # when there are too many open files, say
_PIECE = 1 << 20  # read at once: a lie about the length costs no more memory
_log = logging.getLogger(__name__)


class SocketChannel:
    """A channel over a connected socket.

    Attributes:
        sent_bytes: put on the wire so far, lengths included.
        received_bytes: taken from it so far.
    """

    def __init__(
        self,
        connection: socket.socket,
        timeout_s: float = TIMEOUT_S,
        limit_bytes: int = LIMITS.message_bytes,
    ) -> None:
        """Take ``connection`` over; longest silence ``timeout_s``, > 0."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._limit_bytes = connection, limit_bytes
        self._timeout_s = timeout_s
        self.sent_bytes = self.received_bytes = 0

    def send(self, data: bytes) -> None:
        """Send one message.

        Raises:
            PeerLostError: the other side is gone, or takes nothing.
        """
        try:
            self._socket.settimeout(self._timeout_s + len(data) / LEAST_BYTES_PER_S)
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise PeerLostError(f"the connection is lost: {error}") from error
        self.sent_bytes += _LENGTH.size + len(data)

    def receive(self) -> bytes:
        """Return the next message.

        Raises:
            PeerLostError: the other side is gone, or says nothing in time.
            ProtocolError: it announces more than the limit.
        """
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if size > self._limit_bytes:
            raise ProtocolError(f"a message of {size} bytes, above {self._limit_bytes}")
        self.received_bytes += _LENGTH.size + size
        return self._read(size)

    def _read(self, size: int) -> bytes:
        """Return ``size`` bytes; who sends them one by one has no longer for them."""
        until_s = time.monotonic() + self._timeout_s + size / LEAST_BYTES_PER_S
        got = bytearray()
        while len(got) < size:
            try:
                piece = self._piece(min(size - len(got), _PIECE), until_s)
            except TimeoutError as error:
                told = f"timed out after {len(got)} of {size} bytes"
                raise PeerLostError(f"the connection is lost: {told}") from error
            except OSError as error:
                raise PeerLostError(f"the connection is lost: {error}") from error
            if not piece:
                raise PeerLostError("the other side has hung up")
            got += piece
        return bytes(got)

    def _piece(self, most: int, until_s: float) -> bytes:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left_s, self._timeout_s))
        return self._socket.recv(most)

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _check_port(port: int, least: int) -> None:
    if not least <= port <= MOST_PORT:
        raise ConfigError(f"a port is in {least} to {MOST_PORT}, not {port}")


def tcp(
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Dial:
    """Return what opens a channel to ``host:port``.

    Args:
        host: name or address; with TLS the certificate must be for it.
        port: in [1, 65535].
        tls: how to speak TLS; None for plain TCP, for trusted networks only.
        timeout_s: silence after which the other side counts as gone, > 0.

    Raises:
        ConfigError: there is no such port.
    """
    _check_port(port, least=1)

    def dial() -> Channel:
        try:
            plain = socket.create_connection((host, port), timeout_s)
        except (OSError, UnicodeError) as error:  # Unicode: no host has such a name
            raise PeerLostError(f"{host}:{port} does not answer: {error}") from error
        try:
            whole = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        except ssl.SSLCertVerificationError as error:
            plain.close()
            reason = error.verify_message
            raise ProtocolError(f"the certificate of {host}: {reason}") from error
        except OSError as error:
            plain.close()
            raise PeerLostError(f"{host}:{port}: no TLS: {error}") from error
        return SocketChannel(whole, timeout_s)

    return dial


class Listening(Closing):
    """A server at a TCP port, a thread for each connection; ends with its block.

    Args:
        visit: returns the serving side of a new connection.
        host: address to listen at.
        port: 0 for any free one; see ``port`` afterwards.
        tls: how to speak TLS; None for plain TCP.
        around: changes each channel, such as to slow it down.
        timeout_s: silence after which a client counts as gone, > 0.

    Raises:
        ConfigError: the address cannot be listened at, or there is no such port.
    """

    def __init__(
        self,
        visit: Callable[[], Visit],
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        around: Callable[[Channel], Channel] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        _check_port(port, least=0)
        self._visit, self._tls, self._around = visit, tls, around
        self._timeout_s = timeout_s
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {host}:{port}: {error.strerror}; choose another port"
            ) from error
        self.host, self.port = self._socket.getsockname()[:2]
        self._places = BoundedSemaphore(MOST_VISITS)
        self._lock, self._closed = Lock(), False
        self._open: dict[Thread, socket.socket] = {}
        self._thread = Thread(target=self._accept, name="split-listener", daemon=True)
        self._thread.start()

    def dial(self) -> SocketChannel:
        """Return a plain channel to this port."""
        return SocketChannel(socket.create_connection((self.host, self.port)))

    def wait(self) -> None:
        """Return when the server is closed from elsewhere."""
        self._thread.join()

    def close(self) -> None:
        """Hang up on everybody and stop listening."""
        with self._lock:
            self._closed = True
            threads = list(self._open)
            for connection in self._open.values():
                with suppress(OSError):  # below TLS, which another thread is using
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in [self._thread, *threads]:
            thread.join()

    def _accept(self) -> None:
        while True:
            self._places.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                self._places.release()
                if self._closed:
                    return
                _log.warning("a client could not be let in: %s", error)
                time.sleep(_PAUSE_S)
                continue
            thread = Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._open[thread] = connection
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            plain.settimeout(self._timeout_s)
            whole = self._secured(plain) if self._tls else plain
            self._converse(SocketChannel(whole, self._timeout_s))
        except (PeerLostError, ProtocolError) as error:
            _log.info("a visit has ended: %s", error)
        except (OSError, FedError) as error:  # no TLS there, or our disk is full
            _log.warning("a visit has failed: %s", error)
        finally:
            with self._lock:
                self._open.pop(current_thread())
            plain.close()
            self._places.release()

    def _secured(self, plain: socket.socket) -> socket.socket:
        """Return ``plain`` with TLS; ``close`` can end the handshake, too."""
        whole = cast(ssl.SSLContext, self._tls).wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        )
        with self._lock:
            self._open[current_thread()] = whole
            if self._closed:
                whole.close()
        try:
            whole.do_handshake()
        except OSError:
            whole.close()
            raise
        return whole

    def _converse(self, plain: SocketChannel) -> None:
        channel: Channel = self._around(plain) if self._around else plain
        visit, goes_on = self._visit(), True
        try:
            while goes_on:
                try:
                    data = channel.receive()
                except ProtocolError as error:
                    channel.send(encode(refused(error)))
                    return
                answer, goes_on = answered(visit, data)
                channel.send(answer)
        finally:
            channel.close()
