"""Which of some arms to pull next, learnt from rewards: UCB, one record per device.

Source:
    Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit
    Problem", Machine Learning 47, 2002, UCB1 (Figure 1, Theorem 1).

Notation, paper -> here:
    n_j          pulls of arm j           ``record.pulls[j]``
    x̄_j          mean reward of arm j     ``record.sums[j] / record.pulls[j]``
    n            all pulls                ``sum(record.pulls)``

With ``explore = 1`` it is the paper's UCB1: with rewards in [0, 1] the expected regret
after n pulls is at most Σ_j 8 ln n / Δ_j + (1 + π²/3) Σ_j Δ_j, over the arms that are
Δ_j > 0 worse than the best.

Departures: arms never pulled come first, in an order drawn from the device's name,
so that a fleet does not try one arm in step.
"""

from dataclasses import dataclass
from math import inf, log, sqrt

from fedcore.errors import ConfigError
from fedcore.seeds import permutation


@dataclass(frozen=True, slots=True)
class Record:
    """What one device has shown.

    Attributes:
        pulls: how often each arm was rewarded.
        sums: sum of the rewards of each arm.
    """

    pulls: tuple[int, ...]
    sums: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BanditController:
    """UCB over ``arms`` arms.

    Attributes:
        arms: how many there are, >= 1.
        explore: multiple of UCB1's bonus for the unsure, >= 0; less trusts early means.
    """

    arms: int
    explore: float = 1.0

    def __post_init__(self) -> None:
        if self.arms < 1 or not 0 <= self.explore < inf:
            raise ConfigError(
                f"a bandit needs arms >= 1 and a finite explore >= 0: {self.arms}, "
                f"{self.explore}"
            )

    def new(self) -> Record:
        """Return the record of a device that has shown nothing."""
        return Record((0,) * self.arms, (0.0,) * self.arms)

    def pick(self, record: Record, device: str) -> int:
        """Return the arm to pull, in [0, arms); of equal ones the first."""
        if 0 in record.pulls:
            order = permutation(self.arms, "arms", device)
            return next(int(arm) for arm in order if not record.pulls[arm])
        return max(range(self.arms), key=lambda arm: (self.index(record, arm), -arm))

    def index(self, record: Record, arm: int) -> float:
        """Return x̄_j + explore * √(2 ln n / n_j) of an arm that was pulled."""
        pulls = record.pulls[arm]
        bonus = sqrt(2 * log(sum(record.pulls)) / pulls)
        return record.sums[arm] / pulls + self.explore * bonus

    def learn(self, record: Record, arm: int, reward: float) -> Record:
        """Return ``record`` after ``arm`` gave ``reward``, in [0, 1]."""
        pulls, sums = list(record.pulls), list(record.sums)
        pulls[arm] += 1
        sums[arm] += reward
        return Record(tuple(pulls), tuple(sums))
