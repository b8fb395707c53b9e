"""The thread of a channel: the only one that touches its socket, TLS and ``Talk``.

Everybody else posts work to it. So no lock is held while bytes move, and OpenSSL never
sees two threads on one connection, which it does not allow.
"""

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from fedcore.errors import ConfigError, FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.answering import Heard
from p2p.channel.frames import Kind, frame, words_bytes
from p2p.channel.limits import Limits
from p2p.channel.outbox import Part, plain
from p2p.channel.pace import Pace
from p2p.channel.talk import Talk
from p2p.channel.tls import Tls

_log = logging.getLogger(__name__)
_TURNS = 8  # pieces moved in one direction before the other has its turn
_JOINED_BYTES = 1 << 14  # small frames share one record of TLS
_LINGER_S = 1.0  # longest goodbye


class Service(Protocol):
    """Who deals with what a peer says. Called on the channel's thread: be quick."""

    def asked(self, peer: PeerId, topic: str, body: bytes) -> Future[Any]:
        """Return a future of the answer: any buffer of bytes.

        A ProtocolError, raised here or set on the future, refuses with its words; a
        PeerLostError says that asking again may help.
        """
        ...

    def told(self, peer: PeerId, topic: str, body: bytes) -> Future[Any] | None:
        """Take a tell; a future returned is done when ``body`` is not needed."""
        ...


class Line:
    """One connection and its thread.

    Attributes:
        tls: the connection.
        talk: what is said on it; for posted work only.
        over: why it has ended; None while it goes on.
        opened: set when the peer has said hello, or never will.
    """

    def __init__(self, tls: Tls, talk: Talk, pace: Pace, limits: Limits) -> None:
        self.tls, self.talk = tls, talk
        self.over: FedError | None = None
        self.opened = threading.Event()
        self._pace, self._limits = pace, limits
        self._lock = threading.Lock()
        self._posts: deque[Callable[[], object]] = deque()
        self._asleep = False
        self._closing: str | None = None
        self._watchers: list[Callable[[FedError], None]] = []
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._writes = False  # the selector waits for room to write, too

    def start(self, peer: PeerId, service: Service) -> None:
        """Begin to move bytes; ``service`` deals with what ``peer`` says."""
        self._peer, self._service = peer, service
        name = f"channel {peer[-6:]}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, work: Callable[[], object], *, bounded: bool = False) -> bool:
        """Have the line's thread do ``work``; return whether it will."""
        with self._lock:
            full = bounded and len(self._posts) >= self._limits.waiting
            if self.over is not None or full:
                return False
            self._posts.append(work)
            rouse, self._asleep = self._asleep, False
        if rouse:
            self._rouse()
        return True

    def watch(self, callback: Callable[[FedError], None]) -> None:
        """Call ``callback`` once, when the line has ended."""
        with self._lock:
            over = self.over
            if over is None:
                self._watchers.append(callback)
        if over is not None:
            callback(over)

    def close(self, why: str) -> None:
        """End the line; return when it has ended, except on its own thread."""
        self._closing = self._closing or why
        self._rouse()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _rouse(self) -> None:
        with suppress(OSError):  # full: it wakes anyway; closed: it is over
            self._wake.send(b"\0")

    def _run(self) -> None:
        why: FedError = PeerLostError(f"{self._peer}: the channel broke")
        try:
            self._work()
            why = PeerLostError(f"{self._peer}: {self._closing}")
        except (ProtocolError, PeerLostError) as error:
            why = type(error)(f"{self._peer}: {error}")
        finally:
            self._end(why)

    def _work(self) -> None:
        self._selector.register(self.tls.sock, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._pace.greet()
        self._drain()  # what came with the last bytes of the handshake
        busy = True
        while self._closing is None:
            self._wait(busy)
            busy = self._receive()
            self._serve()
            now_s = time.monotonic()
            self.talk.tick(now_s)
            self.talk.answering.report()
            self.talk.asking.admit()
            self._pace.grant(now_s)
            busy = self._send(now_s) or busy
            self.tls.adapt(now_s)
            if self.tls.sent_bytes > self._limits.wear_bytes:
                raise PeerLostError("its keys are worn: connect again")

    def _wait(self, busy: bool) -> None:
        """Sleep until there is something to do; then do what was posted."""
        now_s = time.monotonic()
        due_s = min(self.talk.due_s(), self._pace.due_s())
        timeout_s = 0.0 if busy else max(0.0, due_s - now_s)
        with self._lock:
            if self._posts:
                timeout_s = 0.0
            self._asleep = timeout_s > 0
        if timeout_s:
            for key, _ in self._selector.select(timeout_s):
                if key.fileobj is self._woken:
                    self._woken.recv(1 << 10)
        with self._lock:
            self._asleep = False
            posts, self._posts = self._posts, deque()
        for work in posts:
            work()

    def _receive(self) -> bool:
        """Take in what is there; return whether there may be more."""
        for _ in range(_TURNS):
            more = self.tls.fill()
            self._drain()
            if not more:
                return False
        return True

    def _drain(self) -> None:
        talk, tls, now_s = self.talk, self.tls, time.monotonic()
        while count := tls.read(talk.want()):
            talk.took(count, now_s)
            if talk.over is not None:
                raise PeerLostError(f"hung up: {talk.over}")
        if talk.asking.accepts is not None:
            self.opened.set()

    def _serve(self) -> None:
        while (heard := self.talk.answering.heard()) is not None:
            self._deal(heard)

    def _deal(self, heard: Heard) -> None:
        """Let the service deal with ``heard``: the border of one request."""
        ticket = heard.ticket
        done: Future[Any] | None
        try:
            if ticket is None:
                done = self._service.told(self._peer, heard.topic, heard.body)
            else:
                done = self._service.asked(self._peer, heard.topic, heard.body)
        except Exception as error:  # noqa: BLE001 - one request must not end the rest
            done = Future()
            done.set_exception(error)
        if done is None:
            self.talk.answering.dealt(heard)
            return
        done.add_done_callback(lambda done: self.post(partial(self._done, heard, done)))

    def _done(self, heard: Heard, done: Future[Any]) -> None:
        answering, ticket = self.talk.answering, heard.ticket
        if ticket is None:
            answering.dealt(heard)
            return
        answer = _answer_of(done)
        if isinstance(answer, memoryview):
            answering.answer(ticket, answer)
            return
        if not isinstance(answer, FedError):
            _log.error("%s failed", heard.topic, exc_info=answer)
            answer = PeerLostError("a fault there")
        refused = isinstance(answer, ProtocolError)
        kind = Kind.REFUSE if refused else Kind.FAIL
        answering.refuse(ticket, kind, str(answer))

    def _send(self, now_s: float) -> bool:
        """Send what the socket takes; return whether there is more right now."""
        for _ in range(_TURNS):
            if not self.tls.flush():
                self._select(writes=True)
                return False
            if not self._load(now_s):
                break
        else:
            return True
        self._select(writes=False)
        return False

    def _select(self, *, writes: bool) -> None:
        if writes is not self._writes:
            self._writes = writes
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writes else 0)
            self._selector.modify(self.tls.sock, events)

    def _load(self, now_s: float) -> bool:
        """Encrypt the next frames, small ones together; return whether there were."""
        joined, control = bytearray(), self.talk.out.control
        while control and len(joined) < _JOINED_BYTES:
            joined += control.popleft()
        large: Part | None = None
        while len(joined) < _JOINED_BYTES and large is None:
            part = self._pace.next(now_s)
            if part is None:
                break
            joined += part.head
            if len(part.body) < _JOINED_BYTES:
                joined += part.body
            else:
                large = part
            if part.last is not None:
                self.talk.answering.sent(part.last)
        if joined:
            self.tls.write(joined)
        if large is not None:
            self.tls.write(large.body)
        return bool(joined)

    def _end(self, why: FedError) -> None:
        with self._lock:
            self.over = why
            posts, self._posts = self._posts, deque()
            watchers, self._watchers = self._watchers, []
        said = self._say_goodbye(why)
        for work in posts:
            work()
        self.talk.end(why)
        self.opened.set()
        for callback in watchers:
            callback(why)
        if said:
            self.tls.hang_up(_LINGER_S)
        self._selector.close()
        for sock in (self.tls.sock, self._wake, self._woken):
            sock.close()

    def _say_goodbye(self, why: FedError) -> bool:
        """Tell the peer why, if it is there; return whether it was told."""
        ours = self._closing or isinstance(why, ProtocolError)
        words = self._closing or str(why).removeprefix(f"{self._peer}: ")
        with suppress(FedError):
            if ours and self.talk.over is None and self.tls.flush():
                self.tls.write(frame(Kind.BYE, tail=words_bytes(words)))
                self.tls.finish()
                return self.tls.flush()
        return False


def _answer_of(done: Future[Any]) -> memoryview | BaseException:
    if done.cancelled():
        return PeerLostError("not now")
    try:
        return done.exception() or plain(done.result())
    except ConfigError as error:
        return error
