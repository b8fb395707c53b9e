"""A channel: asks, answers and tells between two peers over one TLS connection."""

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import overload

from fedcore.errors import ConfigError, FedError, PeerLostError
from fedcore.names import PeerId
from p2p.channel.asking import Asked, Reply
from p2p.channel.caps import Caps
from p2p.channel.certificates import Credentials, peer_of_certificate
from p2p.channel.frames import Kind, topic_bytes
from p2p.channel.limits import Limits
from p2p.channel.line import Line, Service
from p2p.channel.outbox import Body, Sending, plain
from p2p.channel.pace import Pace
from p2p.channel.talk import Talk
from p2p.channel.tls import Tls, tune


def channel(
    sock: socket.socket,
    me: Credentials,
    peer_certificate: bytes,
    *,
    dialer: bool,
    serve: Service,
    limits: Limits | None = None,
    caps: Caps | None = None,
) -> "Channel":
    """Open a channel over ``sock``, which is the channel's from now on.

    Args:
        sock: a connected stream; it does not matter who dialled.
        me: our own credentials.
        peer_certificate: whom to expect at the other end, told us beforehand.
        dialer: which of the two we are in TLS; the peer must be the other.
        serve: deals with what the peer says.
        limits: what the channel may cost; the defaults if None.
        caps: shared by the channels of a node; none if None.

    Raises:
        ProtocolError: somebody else is at the other end, or breaks the protocol.
        PeerLostError: the peer hung up or was too slow.
    """
    limits = limits or Limits()
    until_s = time.monotonic() + limits.handshake_s
    try:
        tune(sock, limits.silence_s)
        tls = Tls(sock, me, peer_certificate, dialer)
        tls.shake(limits.handshake_s)
        path = _place(sock)
        line = _line(tls, limits, caps or Caps())
    except BaseException as error:
        sock.close()
        if isinstance(error, FedError) or not isinstance(error, OSError):
            raise
        # Such as too many open files.
        raise PeerLostError(f"cannot open a channel: {error}") from error
    peer = peer_of_certificate(peer_certificate)
    line.start(peer, serve)
    if not line.opened.wait(max(0.0, until_s - time.monotonic())):
        line.close("no hello in time")
    if line.over is not None:
        raise line.over
    return Channel(line, peer, path)


def _line(tls: Tls, limits: Limits, caps: Caps) -> Line:
    talk = Talk(limits, time.monotonic())
    line = Line(tls, talk, Pace(talk, limits, caps), limits)
    caps.join(1)
    line.watch(lambda _: caps.join(-1))
    return line


def _place(sock: socket.socket) -> str:
    """Return where ``sock`` leads, such as "192.0.2.7:4001"."""
    name = sock.getpeername()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "here"


class Channel:
    """An open channel to ``peer``. All methods may be called from any thread.

    Attributes:
        peer: who is at the other end.
        path: how it is reached, in words, such as "192.0.2.7:4001".
    """

    def __init__(self, line: Line, peer: PeerId, path: str) -> None:
        self.peer, self.path = peer, path
        self._line = line

    @overload
    def ask(
        self,
        topic: str,
        body: Body,
        timeout_s: float,
        into: None = None,
        *,
        large: bool = False,
    ) -> Reply[bytes]: ...

    @overload
    def ask(
        self, topic: str, body: Body, timeout_s: float, into: memoryview
    ) -> Reply[int]: ...

    def ask(
        self,
        topic: str,
        body: Body,
        timeout_s: float,
        into: memoryview | None = None,
        *,
        large: bool = False,
    ) -> Reply[bytes] | Reply[int]:
        """Ask the peer, and return a future of its answer.

        Args:
            topic: 1 to 64 printable characters of ASCII, no spaces.
            body: sent without a copy; leave it as it is until the future is done.
            timeout_s: after so long the future fails.
            into: where the answer goes, not longer than this; the future then gives
                its length. The buffer is the channel's until the future is done.
            large: the answer may be large, as it may be with ``into``: if the peer has
                many of them to send, this ask waits, and others do not.

        The future fails with ProtocolError if the peer refuses, or answers more than
        is allowed; with PeerLostError if it is late or gone, or too much waits for it.
        """
        until_s = time.monotonic() + timeout_s
        target = None if into is None else into.cast("B")
        if target is not None and target.readonly:
            raise ConfigError("an answer cannot go into a buffer that is read-only")
        reply: Reply[bytes] | Reply[int]
        reply = Reply[bytes]() if into is None else Reply[int]()
        large = large or into is not None
        sending = Sending(Kind.ASK, 0, topic_bytes(topic), plain(body), large)
        asked = Asked(sending, reply, until_s, target)
        if not self._put(asked):
            full = "too much waits for this peer already"
            asked.fail(PeerLostError(str(self.over or full)))
        return reply

    def _put(self, asked: Asked) -> bool:
        put = partial(self._line.talk.asking.put, asked)
        return self._line.post(put, bounded=True)

    def tell(self, topic: str, body: Body) -> None:
        """Say ``body``; it is dropped if the peer is gone or too much waits for it."""
        sending = Sending(Kind.TELL, 0, topic_bytes(topic), plain(body))
        asked = Asked(sending, None, 0.0, None)
        self._put(asked)

    def rtt_s(self) -> float | None:
        """Return the round trip lately, in seconds; None if not measured yet."""
        return self._line.talk.rtt_s

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far, with all that TLS adds."""
        return self._line.tls.sent_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes received so far, the same way."""
        return self._line.tls.received_bytes

    @property
    def over(self) -> FedError | None:
        """Why the channel ended; None while it is open."""
        return self._line.over

    def on_close(self, callback: Callable[[FedError], None]) -> None:
        """Have ``callback`` called once, with the reason, when the channel has ended.

        The reason is a ProtocolError if the peer broke the protocol.
        """
        self._line.watch(callback)

    def close(self, why: str = "closed") -> None:
        """End the channel, telling the peer why; return when that is done.

        What waits fails with PeerLostError. On the channel's own thread it ends soon
        after.
        """
        self._line.close(why)
