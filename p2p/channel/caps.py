"""How many bytes a second a node sends and receives, all its channels together.

A bucket is a schedule: whoever wants to move bytes is given the next free slot, and the
slots follow each other at the rate. Slots are given in the order of asking and are
small, so that busy channels share fairly, each having asked for one slot at a time.
"""

import threading
import time
from collections.abc import Callable

from fedcore.errors import ConfigError

_DEPTH_S = 0.05  # what may be caught up after idle or a late wake-up
_SLOT_S = 0.02  # a slot takes about so long at the full rate
_SLOT_MIN_BYTES = 1 << 10
_SLOT_MAX_BYTES = 1 << 20
_TARGET_S = 0.03  # credit that a peer gets ahead of time
RATE_MIN_BYTES_S = 1 << 10


class Bucket:
    """One direction. Thread-safe.

    Args:
        rate_bytes_s: bytes a second, at least 1024; None for no cap.
        clock: seconds that never go back.
    """

    def __init__(
        self, rate_bytes_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._rate: float | None = None
        self._free_s = clock()  # when the next slot begins
        self.sharers = 0
        self.set(rate_bytes_s)

    @property
    def rate_bytes_s(self) -> float | None:
        """The cap in bytes a second, or None."""
        return self._rate

    def set(self, rate_bytes_s: float | None) -> None:
        """Change the cap, from now on.

        Raises:
            ConfigError: it is below 1024 bytes a second.
        """
        if rate_bytes_s is not None and not rate_bytes_s >= RATE_MIN_BYTES_S:
            raise ConfigError(
                f"a cap of {rate_bytes_s:g} bytes a second; give 1024 or more, or none"
            )
        with self._lock:
            self._rate = rate_bytes_s
            self._free_s = min(self._free_s, self._clock() + _SLOT_S)

    def slot_bytes(self) -> int:
        """Return how many bytes to ask a slot for at most."""
        rate = self._rate
        if rate is None:
            return _SLOT_MAX_BYTES
        return int(min(max(rate * _SLOT_S, _SLOT_MIN_BYTES), _SLOT_MAX_BYTES))

    def take(self, count: int) -> float:
        """Take the next slot for ``count`` bytes; return in how many seconds it is."""
        with self._lock:
            now_s = self._clock()
            if self._rate is None:
                return 0.0
            start_s = max(self._free_s, now_s - _DEPTH_S)
            self._free_s = start_s + count / self._rate
            return max(0.0, start_s - now_s)

    def correct(self, count: int) -> None:
        """Count ``count`` bytes more than a slot was taken for; less if negative."""
        with self._lock:
            if self._rate is not None:
                self._free_s += count / self._rate

    def ahead_bytes(self, window_bytes: int, rtt_s: float) -> int:
        """Return how many bytes one channel's peer may be allowed ahead of time."""
        rate = self._rate
        if rate is None:
            return window_bytes
        ahead_s = rtt_s + _TARGET_S / max(1, self.sharers)
        return int(min(window_bytes, rate * ahead_s))


class Caps:
    """Both directions of a node; give the same object to all its channels.

    Args:
        up_bytes_s: most bytes sent a second, at least 1024; None for no cap.
        down_bytes_s: most bytes received a second, the same way.
    """

    def __init__(
        self,
        up_bytes_s: float | None = None,
        down_bytes_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.up = Bucket(up_bytes_s, clock)
        self.down = Bucket(down_bytes_s, clock)
        self._lock = threading.Lock()

    def join(self, channels: int) -> None:
        """Count a channel more, or less with -1, among those that share."""
        with self._lock:
            self.up.sharers += channels
            self.down.sharers += channels
