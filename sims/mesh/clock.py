"""Clocks that disagree: each host has its own rate, its own zero and its own date."""

from dataclasses import dataclass
from math import ulp

EPOCH_S = 1_800_000_000.0  # the true date at the start of every simulation


@dataclass
class Clock:
    """What one host believes about time.

    Attributes:
        rate: its seconds for one true second, > 0.
        zero_s: what its monotonic clock showed at the true time 0; changes when the
            machine boots.
        wrong_s: how far its date is ahead of the true one; may change at any time.
    """

    rate: float = 1.0
    zero_s: float = 0.0
    wrong_s: float = 0.0

    def read(self, true_s: float) -> float:
        """Return what the monotonic clock shows at ``true_s``."""
        return self.zero_s + self.rate * true_s

    def when(self, shown_s: float) -> float:
        """Return the true time at which the monotonic clock shows ``shown_s``.

        Never a moment earlier: who is woken too early asks again at once, for ever.
        """
        true_s = (shown_s - self.zero_s) / self.rate
        while self.read(true_s) < shown_s:
            true_s += ulp(abs(shown_s) + abs(self.zero_s) + abs(true_s))
        return true_s

    def date(self, true_s: float) -> float:
        """Return the date that it shows, in seconds since 1970."""
        return EPOCH_S + self.rate * true_s + self.wrong_s
