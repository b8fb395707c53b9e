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
from functools import partial

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.pipe import Do, Key, Message, Pipe, read_message
from p2p.channel.services import (
    Forward,
    Service,
    Services,
    Spot,
    check_service,
    connecting,
    tried,
)
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


def _anyone(_: PeerId) -> bool:
    return True


class Tunnel:
    """All tunnels of a node. Thread-safe; has one thread of its own.

    Args:
        ask: asks a peer on a topic, with a body and a deadline in seconds.
    """

    def __init__(self, ask: Asking) -> None:
        self._ask = ask
        self._services = Services()
        self._forwards: dict[Forward, socket.socket] = {}
        self._pipes: dict[Key, Pipe] = {}
        self._looking: set[Key] = set()  # for where the service is
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
            host: an address, such as "127.0.0.1", or a name.
            port: of TCP.
            allow: whether a peer may.

        Raises:
            ConfigError: the name or the port cannot be.
        """
        self._services.put(name, Service(host, port, allow))

    def hide(self, name: str) -> None:
        """Refuse new connections to the service ``name``."""
        self._services.hide(name)

    def forward(
        self, peer: PeerId, name: str, host: str = "127.0.0.1", port: int = 0
    ) -> Forward:
        """Open a local port that leads to the service ``name`` of ``peer``.

        Raises:
            ConfigError: the port cannot be used.
        """
        check_service(name, port)
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

    def tried(self, peer: PeerId, name: str) -> "Future[bytes]":
        """Ask whether ``peer`` has a service ``name`` for us; see ``services``."""
        return tried(lambda body: self._ask(peer, TOPIC, body, _ANSWER_S), name)

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
            self._looking.discard(key)
            if pipe is not None:
                self._drop(pipe, "reset by the other end", tell=False)
        elif pipe is None:
            raise ProtocolError("no such connection")
        else:
            pipe.take(message)
            done.set_result(b"")
            self._settle(pipe)

    def _open(self, key: Key, name: str, done: "Future[bytes]") -> None:
        if key in self._pipes or key in self._looking:
            done.set_result(b"")  # again: the answer was lost
            return
        if key.mine:
            raise ProtocolError(f"no service {name!r} for you here")
        service = self._services.of(name, key.peer)
        if (
            Counter(k.peer for k in (*self._pipes, *self._looking))[key.peer]
            >= _PER_PEER
        ):
            raise ProtocolError(f"more than {_PER_PEER} connections")
        found, post = partial(self._found, key, done), self._waiting.post
        self._services.look_up(service, lambda spot: post(partial(found, spot)))
        self._looking.add(key)

    def _found(self, key: Key, done: "Future[bytes]", spot: Spot | None) -> None:
        """Connect to the service, now that it is known where it is."""
        if key not in self._looking:
            done.set_exception(ProtocolError("reset by the other end"))
            return
        self._looking.discard(key)
        try:
            pipe = self._add(key, connecting(spot))
        except ProtocolError as error:
            done.set_exception(error)
            return
        pipe.opening = done
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
