"""How much one peer may take: requests a second, and bytes that wait."""

from collections import Counter
from dataclasses import dataclass, field

from fedcore.names import PeerId

DISTINCT = 4096  # peers remembered; the longest unseen is forgotten


@dataclass(slots=True)
class Bucket:
    """Tokens that come at a steady rate; taking more than there are is a debt.

    Attributes:
        rate_per_s: tokens that come a second.
        burst: most tokens that wait to be taken.
        left: tokens that are there; below zero it is the debt.
        at_s: when ``left`` was true.
        since_s: since when there is a debt; None if there is none.
    """

    rate_per_s: float
    burst: float
    left: float
    at_s: float
    since_s: float | None = None

    def take(self, now_s: float) -> float:
        """Take one token and return how long to wait until it is paid for."""
        self.left += (now_s - self.at_s) * self.rate_per_s
        self.left, self.at_s = min(self.left, self.burst) - 1.0, now_s
        if self.left >= 0:
            self.since_s = None
            return 0.0
        if self.since_s is None:
            self.since_s = now_s
        return -self.left / self.rate_per_s


@dataclass
class Buckets:
    """A bucket for each peer."""

    rate_per_s: float
    burst: float
    of: dict[PeerId, Bucket] = field(default_factory=dict)

    def take(self, peer: PeerId, now_s: float) -> tuple[float, float]:
        """Take a token of ``peer``.

        Returns:
            How long to wait, and for how long it has sent too much; both in seconds.
        """
        bucket = self.of.pop(peer, None)
        if bucket is None:
            bucket = Bucket(self.rate_per_s, self.burst, self.burst, now_s)
        self.of[peer] = bucket  # the newest is last
        if len(self.of) > DISTINCT:
            del self.of[next(iter(self.of))]
        wait_s = bucket.take(now_s)
        return wait_s, 0.0 if bucket.since_s is None else now_s - bucket.since_s


@dataclass
class Held:
    """Bytes of requests that are in memory.

    Attributes:
        limit_bytes: most of all peers together.
        each_bytes: most of one peer.
    """

    limit_bytes: int
    each_bytes: int
    total_bytes: int = 0
    by_peer: Counter[PeerId] = field(default_factory=Counter)

    def take(self, peer: PeerId, size_bytes: int) -> bool:
        """Return whether ``size_bytes`` more of ``peer`` fit; then they are held."""
        if self.total_bytes + size_bytes > self.limit_bytes:
            return False
        if self.by_peer[peer] + size_bytes > self.each_bytes:
            return False
        self.total_bytes += size_bytes
        self.by_peer[peer] += size_bytes
        return True

    def give(self, peer: PeerId, size_bytes: int) -> None:
        """Hold ``size_bytes`` of ``peer`` no more."""
        self.total_bytes -= size_bytes
        self.by_peer[peer] -= size_bytes
        if not self.by_peer[peer]:
            del self.by_peer[peer]
