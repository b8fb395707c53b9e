"""The data channels of a node, by peer: one as a rule, a few where the way is long.

The first of a peer's channels is for everything; the others, *beside* it, help with
what is asked in bulk. See ``p2p.channel.width`` for when they are worth it.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

from fedcore.errors import PeerLostError
from fedcore.names import PeerId
from p2p.channel.bundle import Bundle
from p2p.channel.channel import Channel
from p2p.channel.width import MOST, Width
from p2p.machine import Ask


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A data channel, and how it leads to the peer.

    Attributes:
        channel: the channel.
        path: the way in words.
        relay: who splices it; None when it is direct.
        host: the address of ours that it uses.
    """

    channel: Channel
    path: str
    relay: PeerId | None
    host: str


@dataclass(slots=True)
class _Open:
    """What is open to one peer."""

    lines: list[Line]
    bundle: Bundle
    width: Width = field(default_factory=Width)


@dataclass
class Lines:
    """All open channels. Every method may be called from any thread."""

    _open: dict[PeerId, _Open] = field(default_factory=dict)
    _counted: dict[PeerId, list[Channel]] = field(default_factory=dict)
    _up: Counter[PeerId] = field(default_factory=Counter)  # of channels that ended
    _down: Counter[PeerId] = field(default_factory=Counter)
    _ended: bool = False
    _lock: Lock = field(default_factory=Lock)

    def end(self) -> Sequence[Channel]:
        """Take no more lines; return the channels that go on, replaced ones too."""
        with self._lock:
            self._ended = True
            return [c for counted in self._counted.values() for c in counted]

    def first(self) -> Mapping[PeerId, Line]:
        """Return the line of each peer that is for everything."""
        with self._lock:
            return {peer: there.lines[0] for peer, there in self._open.items()}

    def of(self, peer: PeerId) -> Sequence[Line]:
        """Return the lines to ``peer``, that for everything first."""
        with self._lock:
            there = self._open.get(peer)
            return list(there.lines) if there else []

    def add(self, line: Line, *, beside: bool) -> tuple[bool, Sequence[Line]]:
        """Use ``line`` from now on.

        Args:
            line: which has just been opened.
            beside: leave those there are, if they are as direct.

        Returns:
            Whether it is beside others; and those whose place it takes.

        Raises:
            PeerLostError: the node ends, or there are enough.
        """
        peer, channel = line.channel.peer, line.channel
        with self._lock:
            there = self._open.get(peer)
            beside = beside and there is not None and there.lines[0].relay is None
            if self._ended:
                raise PeerLostError("the node ends")
            if beside and there and len(there.lines) >= MOST:
                raise PeerLostError(f"{MOST} channels to it are open already")
            self._counted.setdefault(peer, []).append(channel)
            if beside and there:
                there.lines.append(line)
                there.bundle.add(channel)
                return True, []
            self._open[peer] = _Open([line], Bundle([channel]))
            return False, there.lines if there else []

    def drop(self, line: Line) -> bool:
        """Forget a line that has ended; return whether it was the last to its peer."""
        peer, channel = line.channel.peer, line.channel
        with self._lock:
            self._counted[peer].remove(channel)
            if not self._counted[peer]:
                del self._counted[peer]
            self._up[peer] += channel.sent_bytes
            self._down[peer] += channel.received_bytes
            there = self._open.get(peer)
            if there is None or line not in there.lines:
                return False
            there.lines.remove(line)
            if not there.lines:
                del self._open[peer]
            return not there.lines

    def moved(self, peer: PeerId) -> tuple[int, int]:
        """Return the bytes sent to and received from ``peer``, which never shrink."""
        with self._lock:
            counted = self._counted.get(peer, ())
            up = self._up[peer] + sum(c.sent_bytes for c in counted)
            return up, self._down[peer] + sum(c.received_bytes for c in counted)

    def received_bytes(self, peer: PeerId) -> int:
        """Return the bytes received from ``peer``, ever."""
        return self.moved(peer)[1]

    def ask_much(self, ask: Ask) -> "tuple[Future[bytes], bool] | None":
        """Ask for much data where least is under way; None if there is no line.

        Returns:
            The future of the answer, and whether one more channel is worth a try.
        """
        received_bytes, now_s = self.received_bytes(ask.peer), time.monotonic()
        with self._lock:
            there = self._open.get(ask.peer)
            if there is None:
                return None
            count, first = len(there.lines), there.lines[0]
            rtt_s = first.channel.rtt_s()
            narrow = there.width.wants(now_s, count, rtt_s, received_bytes)
        future = there.bundle.ask(ask.topic, ask.body, ask.timeout_s, large=True)
        return future, narrow and first.relay is None
