"""Where one simulated peer lives, and the randomness that belongs to it.

Every draw is a pure function of a name: the run's seed, the peer, and what the
draw is for. Nothing is remembered between draws, so a simulation that restarts in
the middle sees the same speeds, losses and absences again.
"""

from dataclasses import dataclass
from math import exp, log

from fedcore.seeds import uniform, words
from fedcore.strategy import PeerId

MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True)
class Site:
    """One peer, as the models of devices, networks and availability see it.

    Attributes:
        peer: its name.
        index: its place among all peers in order of name, >= 0.
        seed: the run's.
    """

    peer: PeerId
    index: int
    seed: int

    def uniform(self, *what: str | int) -> float:
        """Return the number in (0, 1) that ``what`` names for this peer."""
        return uniform("site", self.seed, self.peer, *what)

    def normal(self, *what: str | int) -> float:
        """Return a draw of mean 0 and variance 1, within ±6.

        The sum of twelve uniforms: only additions, so every machine has the same
        bits, and the tails are finite, as those of real devices are.
        """
        drawn = words(12, "site", self.seed, self.peer, *what)
        return sum((int(word >> 11) + 0.5) / 2**53 for word in drawn) - 6.0

    def exponential(self, mean: float, *what: str | int) -> float:
        """Return an exponential draw of the given mean, >= 0."""
        return -mean * log(self.uniform(*what))

    def lognormal(self, median: float, sigma: float, *what: str | int) -> float:
        """Return ``median * exp(sigma * normal)``."""
        return median * exp(sigma * self.normal(*what)) if sigma else median


def seconds(value: float) -> float:
    """Return ``value`` in whole microseconds, at least one.

    ``exp`` and ``log`` may differ in the last bit between machines; a clock kept in
    whole microseconds does not show it.
    """
    return max(round(value, 6), MICROSECOND)


def at(now_s: float) -> str:
    """Return ``now_s`` as part of a draw's name."""
    return now_s.hex()
