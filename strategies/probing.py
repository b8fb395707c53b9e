"""What all zeroth-order strategies have in common: how peers probe the loss.

A probe is two forward passes, no gradient: the loss at w + ε z and at w - ε z gives

    g = (L(w + ε z) - L(w - ε z)) / 2 ε,    a step is    w <- w - lr g z

where z is a direction of a pool that all know (``fedcore.pool``). ``g`` is an unbiased
estimate of the slope along z, up to ε², and ``g z`` of the gradient.

Source:
    Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation
    Gradient Approximation", IEEE Trans. Automatic Control 37(3), 1992.
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (MeZO),
    NeurIPS 2023. https://arxiv.org/abs/2305.17333
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.pool import Pool
from fedcore.strategy import PeerId
from strategies.limits import counts, positive
from strategies.seeded import Seeded, begun

Answer: TypeAlias = Literal["sums", "weighed", "bytes", "scalars"]
Hints: TypeAlias = dict[str, int | float | str]
Kind: TypeAlias = Literal["hadamard", "signs", "gaussian"]
Tie: TypeAlias = Literal["tile", "shift", "flip"]

MOST_HALVED = 32  # by then a step moves nothing
MOST_PROBES = 1 << 16  # in one piece of work; sums of so many
MOST_CLIP = 1e4  # of this size stay below 2^62 on the ring


@dataclass(frozen=True, slots=True)
class Probing:
    """Settings of strategies that probe along one small pool of directions.

    Attributes:
        lr: step along ``g z``, > 0; the strategy's own, the trainer's is not used.
            ``z`` has one unit a weight, so ``lr`` falls as models grow.
        eps: ε, how far from the model the loss is probed, > 0.
        size: K, directions of the pool; a power of two, 2 .. 65536.
        rotate: rounds after which a new pool begins; 0 never.
        clip: largest size of one ``g``, in (0, 10000]; larger ones are cut and counted.
        directions: probes averaged in one step, on one batch, >= 1.
        halve: rounds after which ``lr`` halves, again and again; 0 never.
        pool: kind of the directions, see ``fedcore.pool``.
        tie: what ties the blocks of a ``"hadamard"`` direction.
        seed: names the pool, >= 0.
    """

    lr: float = 1e-3
    eps: float = 1e-3
    size: int = 1024
    rotate: int = 0
    clip: float = 100.0
    directions: int = 1
    halve: int = 0
    pool: Kind = "hadamard"
    tie: Tie = "shift"
    seed: int = 0

    def __post_init__(self) -> None:
        positive(lr=self.lr, eps=self.eps, clip=self.clip)
        if self.clip > MOST_CLIP:
            raise ConfigError(f"clip must be at most {MOST_CLIP:.0f}, got {self.clip}")
        counts(1, directions=self.directions)
        counts(0, halve=self.halve, rotate=self.rotate)
        self.shared()  # refuses what is no pool

    @property
    def one_vote(self) -> bool:
        """Whether all answers of a round must be to one version: pools do not mix."""
        return self.rotate > 0

    def shared(self) -> Pool:
        """Return the pool of these settings.

        Raises:
            ConfigError: there is no such pool.
        """
        return Pool(self.size, self.pool, self.tie, self.seed)

    def check_probes(self, steps: int) -> None:
        """Refuse more ``steps`` than one piece of work may have.

        Raises:
            ConfigError: with all directions they are too many probes.
        """
        if steps * self.directions > MOST_PROBES:
            raise ConfigError(
                f"{steps} steps with {self.directions} directions each are more than "
                f"{MOST_PROBES} probes: lower steps or directions"
            )

    def start(self, params: Params) -> Seeded:
        """Return the state before the first round."""
        return begun(params, self.shared(), -self.lr)

    def model(self, state: Seeded, peer: PeerId) -> Params:
        """Return the model that ``peer`` makes of its work."""
        return state.params

    def share(self, version: int) -> int:
        """Return what a ``g`` of ``version`` is divided by: directions, halvings."""
        times = version // self.halve if self.halve else 0
        return self.directions << min(times, MOST_HALVED)

    def asked(self, version: int, pool: Pool, answer: Answer) -> Hints:
        """Return the hints of work of ``version`` that all answers need."""
        return {
            "do": "zeroth",
            "answer": answer,
            "pool": pool.word(),
            "lr": self.lr,
            "eps": self.eps,
            "clip": self.clip,
            "directions": self.directions,
            "share": self.share(version),
        }
