"""TCP services of one peer, reached through ports of another.

``expose`` names a service here that other peers may reach; nothing else can be reached.
``forward`` opens a local port that leads to a service of a peer. The two talk on the
topic ``/tunnel/1``, over whatever carries questions to peers: a program such as Flower
needs to know nothing of NATs, relays or peer ids.
"""

import itertools
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.pipe import Do, Key, Message, Pipe, check_name, read_message
from p2p.channel.waiting import READ, WRITE, Waiting

TOPIC = "/tunnel/1"
Asking = Callable[[PeerId, str, bytes, float], "Future[bytes]"]
_log = logging.getLogger(__name__)
_ANSWER_S = 20.0
_PATIENCE_S = 15.0  # how long a lost peer may take to come back
_RETRY_S = 0.25
_LOOK_S = 60.0  # how often the other end is asked whether it still is there
_PER_PEER = 64  # connections
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Forward:
    """A local port that leads to a service of ``peer``."""

    peer: PeerId
    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class _Exposed:
    host: str
    port: int
    allow: Callable[[PeerId], bool]


def _anyone(_: PeerId) -> bool:
    return True


class Tunnel:
    """All tunnels of a node. Thread-safe; has one thread of its own.

    Args:
        ask: asks a peer on a topic, with a body and a deadline in seconds.
    """

    def __init__(self, ask: Asking) -> None:
        self._ask = ask
        self._services: dict[str, _Exposed] = {}
        self._forwards: dict[Forward, socket.socket] = {}
        self._pipes: dict[Key, Pipe] = {}
        self._numbers = itertools.count(secrets.randbits(48))
        self._waiting = Waiting("tunnel")
        self._waiting.later(_LOOK_S, self._look)
        self._waiting.start()

    def expose(
        self,
        name: str,
        host: str,
        port: int,
        allow: Callable[[PeerId], bool] = _anyone,
    ) -> None:
        """Let peers reach ``host:port`` from here, as the service ``name``.

        Args:
            name: 1 to 256 printable characters, no slashes.
            host: an address, such as "127.0.0.1".
            port: of TCP.
            allow: whether a peer may.
        """
        _check_service(name, port)
        self._services[name] = _Exposed(host, port, allow)

    def hide(self, name: str) -> None:
        """Refuse new connections to the service ``name``."""
        self._services.pop(name, None)

    def forward(
        self, peer: PeerId, name: str, host: str = "127.0.0.1", port: int = 0
    ) -> Forward:
        """Open a local port that leads to the service ``name`` of ``peer``.

        Raises:
            ConfigError: the port cannot be used.
        """
        _check_service(name, port)
        try:
            server = socket.create_server((host, port), backlog=_BACKLOG)
        except OSError as error:
            text = f"cannot listen on {host}:{port}: {error}; choose another port"
            raise ConfigError(text) from error
        server.setblocking(False)
        made = Forward(peer, name, host, server.getsockname()[1])
        self._forwards[made] = server
        accept = partial(self._accept, made, server)
        self._waiting.post(partial(self._waiting.watch, server, READ, accept))
        return made

    def unforward(self, forward: Forward) -> None:
        """Close the port of ``forward``; its connections go on."""
        server = self._forwards.pop(forward, None)
        if server is not None:
            self._waiting.post(partial(self._waiting.forget, server))

    def asked(self, peer: PeerId, topic: str, body: bytes) -> "Future[bytes]":
        """Answer what ``peer`` says on ``TOPIC``: part of the node's service.

        Raises:
            ProtocolError: it is no message of a tunnel.
        """
        if topic != TOPIC:
            raise ProtocolError("nothing here answers that")
        message = read_message(body)
        done: Future[bytes] = Future()
        self._waiting.post(partial(self._heard, peer, message, done))
        return done

    def close(self) -> None:
        """End all connections and close all ports."""
        self._waiting.post(self._end)
        self._waiting.end()

    def _end(self) -> None:
        for pipe in list(self._pipes.values()):
            self._drop(pipe, "the tunnel is closed")
        for server in self._forwards.values():
            self._waiting.forget(server)
        self._forwards.clear()

    def _accept(self, forward: Forward, server: socket.socket, _: int) -> None:
        try:
            sock, _address = server.accept()
        except OSError:
            return
        number = next(self._numbers)
        pipe = self._add(Key(forward.peer, True, number), sock)
        self._send(pipe, Message(Do.OPEN, True, number, 0, forward.name.encode()))

    def _add(self, key: Key, sock: socket.socket) -> Pipe:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe = self._pipes[key] = Pipe(key, sock, self._send)
        return pipe

    def _send(self, pipe: Pipe, message: Message, since_s: float | None = None) -> None:
        """Ask the other end, again and again for a while if it is lost."""
        since_s = time.monotonic() if since_s is None else since_s
        answer = self._ask(pipe.key.peer, TOPIC, message.encoded(), _ANSWER_S)
        then = partial(self._answered, pipe, message, since_s)
        answer.add_done_callback(
            lambda answer: self._waiting.post(partial(then, answer))
        )

    def _answered(
        self, pipe: Pipe, message: Message, since_s: float, answer: "Future[bytes]"
    ) -> None:
        if self._pipes.get(pipe.key) is not pipe:
            return
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, PeerLostError) or answer.cancelled():
            now_s = time.monotonic()
            if now_s < since_s + _PATIENCE_S:
                again = partial(self._send, pipe, message, since_s)
                self._waiting.later(_RETRY_S, again)
                return
        if error is not None:
            # Of ROOM: it may have ended there, and need none; or be away for a while.
            gone = isinstance(error, ProtocolError) and not pipe.end_told
            if gone or message.do is not Do.ROOM:
                self._drop(pipe, f"{message.do.name}: {error}")
            return
        if message.do is Do.OPEN:
            pipe.ready = True
        elif message.do is Do.END:
            pipe.end_known = True
        pipe.under_way -= message.do is Do.DATA
        self._settle(pipe)

    def _look(self) -> None:
        """Find the connections whose other end is gone without a word."""
        for pipe in [pipe for pipe in self._pipes.values() if pipe.ready]:
            pipe.tell_room()
        self._waiting.later(_LOOK_S, self._look)

    def _heard(self, peer: PeerId, message: Message, done: "Future[bytes]") -> None:
        try:
            self._deal(Key(peer, not message.mine, message.number), message, done)
        except ProtocolError as error:
            done.set_exception(error)

    def _deal(self, key: Key, message: Message, done: "Future[bytes]") -> None:
        pipe = self._pipes.get(key)
        if message.do is Do.OPEN:
            self._open(key, message.name, done)
        elif message.do is Do.RESET:
            done.set_result(b"")
            if pipe is not None:
                self._drop(pipe, "reset by the other end", tell=False)
        elif pipe is None:
            raise ProtocolError("no such connection")
        else:
            pipe.take(message)
            done.set_result(b"")
            self._settle(pipe)

    def _open(self, key: Key, name: str, done: "Future[bytes]") -> None:
        service = self._services.get(name)
        if key in self._pipes:
            done.set_result(b"")  # again: the answer was lost
            return
        if key.mine or service is None or not service.allow(key.peer):
            raise ProtocolError(f"no service {name!r} for you here")
        if Counter(k.peer for k in self._pipes)[key.peer] >= _PER_PEER:
            raise ProtocolError(f"more than {_PER_PEER} connections")
        family = socket.AF_INET6 if ":" in service.host else socket.AF_INET
        try:
            sock = socket.socket(family)
        except OSError as error:  # such as too many open files
            raise ProtocolError(f"no connection can be made: {error}") from error
        pipe = self._add(key, sock)
        pipe.opening = done
        with suppress(BlockingIOError, OSError):  # what is wrong, _connected sees
            pipe.sock.connect((service.host, service.port))
        self._waiting.watch(pipe.sock, WRITE, partial(self._connected, pipe))

    def _connected(self, pipe: Pipe, _: int) -> None:
        try:
            pipe.sock.getpeername()
        except OSError:
            self._drop(pipe, "the service does not answer", tell=False)
            return
        pipe.ready = True
        if pipe.opening is not None:
            pipe.opening.set_result(b"")
            pipe.opening = None
        self._settle(pipe)

    def _moves(self, pipe: Pipe, events: int) -> None:
        try:
            if events & WRITE:
                pipe.write()
            if events & READ and pipe.reads:
                pipe.read()
        except OSError as error:
            self._drop(pipe, f"the local connection broke: {error}")
            return
        self._settle(pipe)

    def _settle(self, pipe: Pipe) -> None:
        """Wait for what ``pipe`` can do next; forget it if it is over."""
        if not pipe.ready:
            return
        if pipe.over:
            del self._pipes[pipe.key]
            self._waiting.forget(pipe.sock)
            return
        events = READ if pipe.reads else 0
        events |= WRITE if pipe.writes else 0
        self._waiting.watch(pipe.sock, events, partial(self._moves, pipe))

    def _drop(self, pipe: Pipe, why: str, *, tell: bool = True) -> None:
        """End a connection that cannot go on."""
        _log.info("tunnel to %s: %s", pipe.key.peer, why)
        if self._pipes.pop(pipe.key, None) is None:
            return
        self._waiting.forget(pipe.sock)
        if pipe.opening is not None:
            pipe.opening.set_exception(ProtocolError(why))
        if tell:
            reset = Message(Do.RESET, pipe.key.mine, pipe.key.number)
            self._ask(pipe.key.peer, TOPIC, reset.encoded(), _ANSWER_S)


def _check_service(name: str, port: int) -> None:
    try:
        check_name(name.encode("utf-8", "surrogateescape"))
    except ProtocolError as error:
        raise ConfigError(f"{error}: {name!r:.80}") from error
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port {port}; give 1 to 65535")
