"""Who is served next: peers take turns, each with a short queue, at a bounded pace.

A machine does not learn when an answer has left. So it lets answers out no faster than
``bytes_s``, the pace that the channels are allowed; what waits here is a few bytes an
ask, read from disk only when its turn comes.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedcore.names import PeerId

Item = TypeVar("Item")

PER_PEER, IN_ALL = 48, 512
BURST_BYTES = 16 << 20


@dataclass
class Slots(Generic[Item]):
    """Asks that wait for their turn.

    Attributes:
        bytes_s: long-term pace, in bytes a second; above 0.
        per_peer: most asks of one peer that wait.
        in_all: most asks that wait.
        burst_bytes: what may leave at once after a pause.
    """

    bytes_s: float
    per_peer: int = PER_PEER
    in_all: int = IN_ALL
    burst_bytes: float = BURST_BYTES
    _waiting: dict[PeerId, deque[Item]] = field(default_factory=dict)
    _credit: float = BURST_BYTES
    _at_s: float = 0.0

    def offer(self, peer: PeerId, item: Item) -> bool:
        """Queue ``item``; False if this peer, or all together, wait for too much."""
        own = len(self._waiting.get(peer, ()))
        if own >= self.per_peer or len(self) >= self.in_all:
            return False
        self._waiting.setdefault(peer, deque()).append(item)
        return True

    def take(self, now_s: float) -> Item | None:
        """Return whose turn it is; None if nobody waits, or the pace says later."""
        self._refill(now_s)
        if self._credit <= 0 or not self._waiting:
            return None
        peer = next(iter(self._waiting))
        queue = self._waiting.pop(peer)
        item = queue.popleft()
        if queue:
            self._waiting[peer] = queue  # behind all others
        return item

    def spend(self, size_bytes: int) -> None:
        """Count what ``take`` led to."""
        self._credit -= size_bytes

    def ready_s(self, now_s: float) -> float | None:
        """Return when ``take`` will give something; None if nobody waits."""
        self._refill(now_s)
        wait_s = max(0.0, -self._credit) / self.bytes_s
        return now_s + wait_s + 1e-4 if self._waiting else None

    def drop(self, peer: PeerId) -> Collection[Item]:
        """Forget the asks of a peer that is gone, and return them."""
        return self._waiting.pop(peer, ())

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _refill(self, now_s: float) -> None:
        earned = self.bytes_s * max(0.0, now_s - self._at_s)
        self._credit = min(self.burst_bytes, self._credit + earned)
        self._at_s = now_s
