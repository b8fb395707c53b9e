"""How the step size changes from round to round, as a factor of ``lr``."""

from dataclasses import dataclass
from math import cos, pi

from fedcore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Constant:
    """Keep the step size."""

    def factor(self, version: int) -> float:
        """Return the factor of ``lr`` in round ``version``, counted from 0."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Cosine:
    """Go down from 1 to ``floor`` along half a cosine, then stay.

    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
        Restarts", ICLR 2017, without restarts. https://arxiv.org/abs/1608.03983

    Attributes:
        rounds: rounds until the floor, >= 1.
        floor: the last factor, in [0, 1].
    """

    rounds: int = 100
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0.0 <= self.floor <= 1.0:
            raise ConfigError(
                f"cosine needs rounds >= 1 and floor in [0, 1]: {self.rounds}, "
                f"{self.floor}"
            )

    def factor(self, version: int) -> float:
        """Return the factor of ``lr`` in round ``version``, counted from 0."""
        done = min(version, self.rounds) / self.rounds
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + cos(pi * done))


@dataclass(frozen=True, slots=True)
class StepDecay:
    """Multiply by ``decay`` after every ``every`` rounds.

    Attributes:
        every: rounds on one step size, >= 1.
        decay: factor between one step size and the next, in (0, 1].
    """

    every: int = 30
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1 or not 0.0 < self.decay <= 1.0:
            raise ConfigError(
                f"step decay needs every >= 1 and decay in (0, 1]: {self.every}, "
                f"{self.decay}"
            )

    def factor(self, version: int) -> float:
        """Return the factor of ``lr`` in round ``version``, counted from 0."""
        return float(self.decay ** (version // self.every))


Schedule = Constant | Cosine | StepDecay
SCHEDULES: dict[str, type] = {
    "constant": Constant,
    "cosine": Cosine,
    "step-decay": StepDecay,
}
