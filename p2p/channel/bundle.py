"""Several channels to one peer as one, for pipes that are long and fat.

One TCP connection over a long way is held back by its window and by every lost packet;
several are not. What is asked goes to the channel that has least to do. A large range
of bytes is fetched in pieces, spread over the channels; when a channel ends, its pieces
go on elsewhere at the very byte where they stopped.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from fedcore.errors import ConfigError, FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.asking import Reply
from p2p.channel.channel import Channel
from p2p.channel.outbox import Body

Question = Callable[[int, int], Body]  # (offset, count) -> what to ask for those bytes
_PIECE_BYTES = 1 << 22
_AHEAD = 2  # pieces asked for on one channel, so that it never runs dry
_TRIES = 64  # pieces lost before a fetch is given up


class Bundle:
    """Channels to ``peer``, which remain their owner's. Thread-safe.

    Args:
        channels: at least one, all to the same peer.

    Raises:
        ConfigError: they are not.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        if not channels:
            raise ConfigError("a bundle of no channels")
        self.peer: PeerId = channels[0].peer
        self._lock = threading.Lock()
        self._channels: list[Channel] = []
        self._busy: Counter[Channel] = Counter()  # asks under way
        for channel in channels:
            self.add(channel)

    def add(self, channel: Channel) -> None:
        """Use ``channel`` too, until it ends.

        Raises:
            ConfigError: it leads to somebody else.
        """
        if channel.peer != self.peer:
            raise ConfigError(f"a channel to {channel.peer}, not to {self.peer}")
        with self._lock:
            self._channels.append(channel)
        channel.on_close(lambda _: self.remove(channel))

    def remove(self, channel: Channel) -> None:
        """Ask nothing more on ``channel``; what is under way there goes on."""
        with self._lock:
            if channel in self._channels:
                self._channels.remove(channel)

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels that are open."""
        with self._lock:
            return [c for c in self._channels if c.over is None]

    def ask(
        self, topic: str, body: Body, timeout_s: float, *, large: bool = False
    ) -> "Reply[bytes]":
        """Ask on the channel with the fewest asks under way; see ``Channel.ask``."""
        with self._lock:
            channels = [c for c in self._channels if c.over is None]
            channel = min(channels, key=self._busy.__getitem__, default=None)
            self._busy.update([channel] if channel else [])
        if channel is None:
            reply = Reply[bytes]()
            reply.set_exception(PeerLostError(f"no channel to {self.peer} is left"))
            return reply
        asked = channel.ask(topic, body, timeout_s, large=large)
        asked.add_done_callback(lambda _: self._answered(channel))
        return asked

    def _answered(self, channel: Channel) -> None:
        with self._lock:
            self._busy.subtract([channel])
            self._busy += Counter()  # forgets those with nothing under way

    def fetch(
        self,
        topic: str,
        question: Question,
        into: memoryview,
        timeout_s: float,
        piece_bytes: int = _PIECE_BYTES,
    ) -> "Future[int]":
        """Fill ``into`` with the answers to many asks; return a future of its length.

        Args:
            topic: of the asks.
            question: returns what to ask for ``count`` bytes from ``offset`` on.
            into: filled from its start; it must not be used until the future is done.
            timeout_s: for all of it.
            piece_bytes: asked for at once, unless less is left.

        The future fails with ProtocolError if the peer refuses, or gives another
        number of bytes; with PeerLostError if it is late, or no channel is left.
        """
        fetch = _Fetch(self, topic, question, into.cast("B"), timeout_s)
        return fetch.start(piece_bytes)


class _Fetch:
    """One fetch: pieces to do, and pieces asked for."""

    def __init__(
        self,
        bundle: Bundle,
        topic: str,
        question: Question,
        into: memoryview,
        timeout_s: float,
    ) -> None:
        self._bundle, self._topic, self._question = bundle, topic, question
        self._into, self._until_s = into, time.monotonic() + timeout_s
        self._todo: deque[tuple[int, int]] = deque()  # (offset, count)
        self._asked: dict[Channel, int] = {}  # pieces under way
        self._error: FedError | None = None
        self._lost = 0
        self._ended = False
        self._lock = threading.Lock()
        self._done: Future[int] = Future()
        self._done.set_running_or_notify_cancel()

    def start(self, piece_bytes: int) -> "Future[int]":
        """Ask for the first pieces."""
        size = len(self._into)
        for at in range(0, size, piece_bytes):
            self._todo.append((at, min(piece_bytes, size - at)))
        self._go_on()
        return self._done

    def _go_on(self) -> None:
        """Ask for more wherever there is room; end when nothing is under way."""
        while (chosen := self._next()) is not None:
            channel, offset, count = chosen
            into = self._into[offset : offset + count]
            body = self._question(offset, count)
            left_s = self._until_s - time.monotonic()
            reply = channel.ask(self._topic, body, left_s, into)
            reply.add_done_callback(partial(self._arrived, channel, offset, count))

    def _next(self) -> tuple[Channel, int, int] | None:
        """Return the next piece and its channel; None if there is no more to ask."""
        with self._lock:
            free = [c for c in self._bundle.channels if self._asked.get(c, 0) < _AHEAD]
            under_way = sum(self._asked.values())
            if self._todo and free and self._error is None:
                channel = min(free, key=lambda c: self._asked.get(c, 0))
                self._asked[channel] = self._asked.get(channel, 0) + 1
                return channel, *self._todo.popleft()
            if under_way or self._ended:
                return None
            self._ended = True
        self._end()
        return None

    def _end(self) -> None:
        lost = PeerLostError(f"no channel to {self._bundle.peer} is left")
        error = self._error or (lost if self._todo else None)
        if error is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(len(self._into))

    def _arrived(
        self, channel: Channel, offset: int, count: int, reply: "Future[int]"
    ) -> None:
        error = reply.exception()
        arrived = reply.arrived if isinstance(reply, Reply) else 0
        with self._lock:
            self._asked[channel] -= 1
            if error is None and arrived != count:
                words = f"{self._bundle.peer}: {arrived} bytes for {count}"
                self._error = self._error or ProtocolError(words)
            elif isinstance(error, PeerLostError):
                self._postpone(error, offset + arrived, count - arrived)
            elif error is not None:
                self._error = self._error or ProtocolError(str(error))
        self._go_on()

    def _postpone(self, error: PeerLostError, offset: int, count: int) -> None:
        self._lost += 1
        if self._lost > _TRIES or time.monotonic() >= self._until_s:
            self._error = self._error or error
        elif count:
            self._todo.appendleft((offset, count))
