"""Two sockets that a relay has joined, moved forward whenever one is ready."""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from p2p.nat.pipes import Flow, flow
from p2p.nat.ports import dropped

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_TURNS = 4  # pipes full before another circuit has its turn


@dataclass(eq=False)
class Circuit:
    """A joined pair.

    Attributes:
        owner: 16 bytes of the peer whose grant pays for it.
        ends: the dialler's socket and the other's.
        since_s: when it was joined.
        moved_s: when it last moved a byte.
        bytes: how many it has moved, in both directions.
    """

    owner: bytes
    ends: tuple[socket.socket, socket.socket]
    since_s: float
    make: Callable[[socket.socket, socket.socket], Flow] = flow
    moved_s: float = 0.0
    bytes: int = 0
    flows: tuple[Flow, ...] = field(init=False)
    watched: dict[socket.socket, int] = field(init=False)

    def __post_init__(self) -> None:
        a, b = self.ends
        self.moved_s = self.since_s
        first = self.make(a, b)
        try:
            self.flows = (first, self.make(b, a))
        except OSError:
            first.close()
            raise
        self.watched = {}

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Ask ``selector`` for what the flows wait for, and for nothing else."""
        for sock in self.ends:
            wanted = self._wanted(sock)
            before = self.watched.get(sock, 0)
            if wanted == before:
                continue
            if not before:
                selector.register(sock, wanted, self)
            elif wanted:
                selector.modify(sock, wanted, self)
            else:
                selector.unregister(sock)
            self.watched[sock] = wanted

    def _wanted(self, sock: socket.socket) -> int:
        wanted = 0
        for way in self.flows:
            if way.source is sock and not way.held and not way.ended:
                wanted |= READ
            if way.sink is sock and way.held:
                wanted |= WRITE
        return wanted

    def move(self, now_s: float) -> int:
        """Move what can be moved without waiting; return how many bytes.

        Raises:
            OSError: an end is gone.
        """
        count = sum(_pushed(way) for way in self.flows)
        self.bytes += count
        if count:
            self.moved_s = now_s
        return count

    @property
    def done(self) -> bool:
        """Whether both sides have said their last byte, and the other has it."""
        return all(way.ended and not way.held for way in self.flows)

    def close(self, selector: selectors.BaseSelector) -> None:
        """Drop both ends."""
        for sock, wanted in self.watched.items():
            if wanted:
                selector.unregister(sock)
        self.watched.clear()
        for way in self.flows:
            way.close()
        for sock in self.ends:
            sock.close() if self.done else dropped(sock)


def _pushed(way: Flow) -> int:
    """Return how many bytes ``way`` has given to its sink in one turn."""
    count = 0
    if way.ended and not way.held:
        return 0
    with suppress(BlockingIOError):
        for _ in range(_TURNS):
            if not way.held:
                way.take()
            if way.ended:
                with suppress(OSError):  # the other end has hung up already
                    way.sink.shutdown(socket.SHUT_WR)
                return count
            while way.held:
                count += way.give()
    return count
