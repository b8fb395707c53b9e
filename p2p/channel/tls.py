"""TLS 1.3 between two known peers, over any connected socket.

OpenSSL's state is kept apart from the socket (``MemoryBIO``) and touched by one thread
only: one connection must not be read and written by two threads at once.
"""

import os
import socket
import ssl
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import cast

from fedcore.errors import ConfigError, FedError, PeerLostError, ProtocolError
from p2p.channel.certificates import Credentials, peer_of_certificate

_PROTOCOL = "fedcore/1"
_PIECE_BYTES = 1 << 17  # what is read from the socket at once
_UNSENT_BYTES = 1 << 18  # what the kernel may hold unsent; more delays small messages
_UNSENT_MOST_BYTES = 1 << 21
_UNSENT_S = 0.02  # of what the link carries, if that is more
_MEASURE_S = 0.05
_HELLO_BYTES = 1 << 16  # longest handshake of a peer


class Tls:
    """The encrypted side of one connection. Not for two threads at once.

    Attributes:
        sent_bytes: bytes given to the socket.
        received_bytes: bytes taken from it.
    """

    def __init__(
        self, sock: socket.socket, me: Credentials, peer: bytes, dialer: bool
    ) -> None:
        self.sock = sock
        self.sent_bytes = self.received_bytes = 0
        self._peer = peer_of_certificate(peer)
        self._pinned = peer
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context_of(me, peer, dialer).wrap_bio(
            self._arrived, self._leaving, server_side=not dialer
        )
        self._piece = memoryview(bytearray(_PIECE_BYTES))
        self._unsent = memoryview(b"")
        self._measured = 0.0, 0  # when, and what had been sent by then
        self._held_bytes = _UNSENT_BYTES

    def shake(self, timeout_s: float) -> None:
        """Shake hands, and leave the socket non-blocking.

        Raises:
            ProtocolError: the other end is not the expected peer, or speaks no TLS 1.3.
            PeerLostError: it hung up, or took longer than ``timeout_s`` seconds.
        """
        until_s = time.monotonic() + timeout_s
        try:
            while not self._shaken():
                self._push(until_s)
                self._pull(until_s)
            self._push(until_s)
            self._check()
            self.sock.setblocking(False)
        except OSError as error:
            raise PeerLostError(f"{self._peer} did not shake hands: {error}") from error

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._alert()
            raise ProtocolError(f"{self._peer} is not there: {_told(error)}") from error
        return True

    def _alert(self) -> None:
        """Tell the other end why, if that is possible at once."""
        try:
            self.sock.settimeout(0.0)
            self.sock.send(self._leaving.read())
        except OSError:
            return

    def _push(self, until_s: float) -> None:
        self.sock.settimeout(_left_s(until_s))
        self.sock.sendall(self._leaving.read())

    def _pull(self, until_s: float) -> None:
        self.sock.settimeout(_left_s(until_s))
        count = self.sock.recv_into(self._piece)
        if not count:
            raise ConnectionResetError("hung up")
        self.received_bytes += count
        if self.received_bytes > _HELLO_BYTES:
            raise ProtocolError(f"{self._peer} shakes hands without end")
        self._arrived.write(self._piece[:count])

    def _check(self) -> None:
        shown = self._tls.getpeercert(binary_form=True)
        if shown != self._pinned or self._tls.version() != "TLSv1.3":
            raise ProtocolError(f"{self._peer} showed another certificate")
        if self._tls.selected_alpn_protocol() != _PROTOCOL:
            raise ProtocolError(f"{self._peer} does not speak {_PROTOCOL}")

    def fill(self) -> bool:
        """Take from the socket what is there; return whether there may be more.

        Raises:
            PeerLostError: the peer hung up.
        """
        try:
            count = self.sock.recv_into(self._piece)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerLostError(f"the connection broke: {error}") from error
        if not count:
            raise PeerLostError("hung up")
        self.received_bytes += count
        self._arrived.write(self._piece[:count])
        return count == _PIECE_BYTES

    def read(self, into: memoryview) -> int:
        """Decrypt into ``into``; return how many bytes, 0 if more must arrive first.

        Raises:
            ProtocolError: the bytes are not the peer's.
            PeerLostError: the peer ended the connection.
        """
        try:
            # Given a buffer it returns a count, which its type does not say.
            return cast(int, self._tls.read(len(into), into))
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLZeroReturnError as error:
            raise PeerLostError("hung up") from error
        except ssl.SSLError as error:
            words = f"bytes that are not the peer's: {_told(error)}"
            raise ProtocolError(words) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt ``data``; ``flush`` sends it."""
        try:
            self._tls.write(memoryview(data))
        except ssl.SSLError as error:
            raise PeerLostError(f"cannot encrypt: {_told(error)}") from error

    def flush(self) -> bool:
        """Send what the socket takes; return whether nothing is left.

        Raises:
            PeerLostError: the connection broke.
        """
        while self._unsent or self._leaving.pending:
            if not self._unsent:
                self._unsent = memoryview(self._leaving.read())
            try:
                count = self.sock.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                raise PeerLostError(f"the connection broke: {error}") from error
            self.sent_bytes += count
            self._unsent = self._unsent[count:]
        return True

    def adapt(self, now_s: float) -> None:
        """Let the kernel hold more if the link is fast, to be woken less often."""
        since_s, before = self._measured
        if now_s < since_s + _MEASURE_S:
            return
        rate = (self.sent_bytes - before) / (now_s - since_s)
        self._measured = now_s, self.sent_bytes
        held = int(min(max(rate * _UNSENT_S, _UNSENT_BYTES), _UNSENT_MOST_BYTES))
        if not 0.5 < held / self._held_bytes < 2.0:
            self._held_bytes = held
            _set(self.sock, "TCP_NOTSENT_LOWAT", held)

    def finish(self) -> None:
        """Say in TLS that nothing more will come; ``flush`` sends it."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # it wants the peer's goodbye, or the peer broke the connection

    def hang_up(self, linger_s: float) -> None:
        """Close our direction, and wait at most ``linger_s`` for the peer to do so.

        Bytes of the peer left unread would make the system reset the connection, and
        the peer might never read why.
        """
        until_s = time.monotonic() + linger_s
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while True:
                self.sock.settimeout(_left_s(until_s))
                if not self.sock.recv_into(self._piece):
                    return
        except OSError:
            return


def _left_s(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("too slow")
    return left_s


def _told(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, such as "certificate verify failed"."""
    return (error.reason or str(error)).replace("_", " ").lower()


def context_of(me: Credentials, peer: bytes, dialer: bool) -> ssl.SSLContext:
    """Return the settings of one end: TLS 1.3 only, ``peer`` and nobody else."""
    side = ssl.PROTOCOL_TLS_CLIENT if dialer else ssl.PROTOCOL_TLS_SERVER
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    if not dialer:
        context.num_tickets = 0
    context.check_hostname = False  # the pinned key is the name
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=peer)
    context.set_alpn_protocols([_PROTOCOL])
    _load(context, me)
    return context


def _load(context: ssl.SSLContext, me: Credentials) -> None:
    """Give ``context`` our key: OpenSSL takes it from files only."""
    chain = ssl.DER_cert_to_PEM_cert(me.certificate).encode() + me.secret
    try:
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("credentials", os.MFD_CLOEXEC)
            path = f"/proc/self/fd/{handle}"
        else:
            handle, path = tempfile.mkstemp()  # readable by us only
        try:
            with os.fdopen(handle, "wb", closefd=False) as file:
                file.write(chain)
            context.load_cert_chain(path)
        finally:
            os.close(handle)
            if not path.startswith("/proc/"):
                Path(path).unlink()
    except FedError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot load our own key: {error}") from error


def tune(sock: socket.socket, silence_s: float) -> None:
    """Set what a data connection needs: no delay, and dead links noticed."""
    _set(sock, "TCP_NODELAY", 1)
    _set(sock, "TCP_USER_TIMEOUT", int(silence_s * 1000))
    _set(sock, "TCP_NOTSENT_LOWAT", _UNSENT_BYTES)


def _set(sock: socket.socket, name: str, value: int) -> None:
    """Set an option of TCP, if this system and this socket have it."""
    option = getattr(socket, name, None)
    if option is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
