"""What one side of a channel has still to send, and in which order.

Control frames first, then small bodies in their order, then large ones a part at a
time in turn: whatever is on its way, a small message waits for one part at most.
"""

from collections import deque
from dataclasses import dataclass

from fedcore.errors import ConfigError
from p2p.channel.frames import HEAD, HEAD_BYTES, LARGE, Kind, cost_of
from p2p.channel.limits import SMALL_BYTES

_LEAST_BYTES = 1 << 10  # parts are not made smaller to fit the credit left
_KEPT_BYTES = 1 << 10  # credit that large bodies leave to small ones

Body = bytes | bytearray | memoryview


def plain(body: Body) -> memoryview:
    """Return ``body`` as bytes in a row, not copied.

    Raises:
        ConfigError: it is none.
    """
    try:
        return memoryview(body).cast("B")
    except TypeError as error:
        raise ConfigError(f"a body that is not bytes in a row: {error}") from error


@dataclass(slots=True)
class Sending:
    """A body on its way out; ``at`` bytes of it have been handed over."""

    kind: Kind
    ticket: int
    topic: bytes
    body: memoryview
    large: bool = False  # of an ask: its answer may be
    at: int = 0
    begun: bool = False

    @property
    def left(self) -> int:
        """How many bytes have not been handed over."""
        return len(self.body) - self.at

    def head(self, part_bytes: int) -> bytes:
        """Return head and topic of the next frame, with ``part_bytes`` in it."""
        if self.begun:
            return HEAD.pack(Kind.PART, 0, self.kind, part_bytes, self.ticket, self.at)
        of, size = LARGE if self.large else 0, len(self.body)
        fields = (len(self.topic), of, part_bytes, self.ticket, size)
        return HEAD.pack(self.kind, *fields) + self.topic


@dataclass(frozen=True, slots=True)
class Part:
    """One frame to be sent; ``last`` is the body that ends with it."""

    head: bytes
    body: memoryview
    cost: int
    last: Sending | None


class Outbox:
    """Queues of one side of a channel. ``credit`` is what the peer still accepts."""

    def __init__(self) -> None:
        self.credit = 0
        self.control: deque[bytes] = deque()
        self._small: deque[Sending] = deque()
        self._bulk: deque[Sending] = deque()

    @property
    def waiting(self) -> bool:
        """Whether a body has not been handed over."""
        return bool(self._small or self._bulk)

    def cost(self, most_bytes: int) -> int:
        """Return what the next part will cost, of at most ``most_bytes``."""
        body = (self._small or self._bulk)[0]
        named = 0 if body.begun else len(body.topic)
        return cost_of(named, min(body.left, most_bytes))

    def put(self, body: Sending) -> None:
        """Queue ``body``."""
        (self._small if len(body.body) <= SMALL_BYTES else self._bulk).append(body)

    def drop(self, kind: Kind, ticket: int) -> Sending | None:
        """Forget what is left of a body, and return it if there was any."""
        for queue in (self._small, self._bulk):
            for body in queue:
                if body.ticket == ticket and body.kind is kind:
                    queue.remove(body)
                    return body
        return None

    def next(self, most_bytes: int) -> Part | None:
        """Return the next part of a body, of at most ``most_bytes``; None: wait."""
        if self._small:
            return self._part(self._small, most_bytes, self.credit)
        if self._bulk:
            return self._part(self._bulk, most_bytes, self.credit - _KEPT_BYTES)
        return None

    def _part(self, queue: deque[Sending], most: int, credit: int) -> Part | None:
        body = queue[0]
        named = 0 if body.begun else len(body.topic)
        room = credit - cost_of(named, 0) - (credit >> 9)  # what the seals may take
        size = min(body.left, most, room)
        if size < min(body.left, _LEAST_BYTES, most):
            return None
        head, part = body.head(size), body.body[body.at : body.at + size]
        body.at += size
        body.begun = True
        queue.popleft()
        if body.left:
            # Small bodies go in their order, large ones take turns.
            (queue.appendleft if queue is self._small else queue.append)(body)
        cost = cost_of(len(head) - HEAD_BYTES, size)
        self.credit -= cost
        return Part(head, part, cost, None if body.left else body)
