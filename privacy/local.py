"""Local differential privacy: a trainer that blurs its answer before it leaves.

The difference is scaled down to L2 norm ``bound`` if it is longer, and every number
gets Gaussian noise of standard deviation sigma = noise_multiplier * bound.

Source:
    Dwork, Roth, "The Algorithmic Foundations of Differential Privacy", 2014 (the
    Gaussian mechanism); Balle, Wang, "Improving the Gaussian Mechanism for
    Differential Privacy", ICML 2018, theorem 8 (its exact epsilon, used here).
    https://arxiv.org/abs/1805.06530

What it promises, for one answer: whoever sees the payload, the coordinator
included, can hardly tell *any* two data sets of this peer apart. Two clipped
differences are at most 2 * bound apart, so one answer is (epsilon, delta)-private
with ``round_epsilon(noise_multiplier, delta)``.

What it does not promise:
    Rounds add up, and nothing here counts them: ten answers are worse than one.
    The same work answered twice is two answers.
    The numbers ``examples`` and ``steps`` travel as they are. All other figures,
    such as the loss, are dropped: they would be answers without noise.
    Noise is float64 rounded to the payload's type, not a discrete sampler; an
    attack on the gaps between floating-point numbers (Mironov 2012) is not met.
    Noise from a known seed is no noise. Leave ``seed`` out wherever data are real:
    then it comes from the operating system's secure generator and nobody, not even
    this program, can make it again.
"""

import secrets
from dataclasses import dataclass, replace
from math import erfc, exp, inf, pi, sqrt

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params, norm, zeros_like
from fedcore.seeds import words
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer

PUBLIC = ("steps",)  # figures that follow from the work and ``examples`` alone


@dataclass(frozen=True, slots=True)
class LocalGaussian:
    """Wraps ``trainer``: clips its difference and adds Gaussian noise.

    Attributes:
        trainer: what trains; its answer must be a model difference.
        bound: greatest L2 norm of the difference before noise, > 0.
        noise_multiplier: sigma / bound, >= 0; 0 only clips and promises nothing.
        seed: None draws secret noise; a number makes a simulation repeatable, and
            the noise worthless as protection.
    """

    trainer: Trainer
    bound: float
    noise_multiplier: float
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bound < inf:
            raise ConfigError(f"bound must be above 0 and finite, got {self.bound}")
        if not 0 <= self.noise_multiplier < inf:
            raise ConfigError(
                "noise_multiplier must be at least 0 and finite, "
                f"got {self.noise_multiplier}"
            )

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        _check_fit(work, peer)
        update = self.trainer(task, work, peer)
        tree, factor = clipped(update.payload, self.bound)
        turn = work.hints.get("turn", 0)  # a second answer needs noise of its own
        draw = (update.peer, update.version, *(("turn", int(turn)) if turn else ()))
        payload = {
            name: self._blurred(t, factor, (*draw, name)) for name, t in tree.items()
        }
        metrics = {k: v for k, v in update.metrics.items() if k in PUBLIC}
        return replace(update, payload=payload, metrics=metrics)

    def _blurred(
        self, value: Tensor, factor: float, draw: tuple[str | int, ...]
    ) -> Tensor:
        sharp = value.double() * factor
        if not self.noise_multiplier:
            return sharp.to(value.dtype)
        noise = self._noise(value.numel(), draw).view(value.shape)
        return (sharp + noise * (self.noise_multiplier * self.bound)).to(value.dtype)

    def _noise(self, count: int, draw: tuple[str | int, ...]) -> Tensor:
        even = count + count % 2
        if self.seed is None:
            raw = np.frombuffer(secrets.token_bytes(8 * even), dtype="<u8")
        else:
            raw = words(even, "local-dp", self.seed, *draw)
        return torch.from_numpy(normals(raw)[:count])


def _check_fit(work: Work, peer: PeerId) -> None:
    """Refuse work that noise cannot cover, or would spoil."""
    if work.hints.get("trusted"):
        raise ConfigError(
            f"{peer} is to compute on copies of others' examples, so local privacy "
            "would promise what cannot be kept: take the privacy wrapper off in a "
            "trusted cluster, or choose another strategy"
        )
    if work.hints.get("do") == "ranked":
        raise ConfigError(
            f"{peer} is to send its adapters, not how far they moved, so clipping and "
            "noise would be scaled to the whole of them: use privacy.name=none, or a "
            "strategy that sends differences, such as fedavg"
        )


def clipped(tree: Params, bound: float) -> tuple[Params, float]:
    """Return a tree and the factor in (0, 1] that brings its L2 norm to ``bound``.

    A tree that is not finite is replaced by zeros, so that not even a training
    that blew up shows.

    Raises:
        ConfigError: ``tree`` is not a model difference.
    """
    if not all(t.is_floating_point() for t in tree.values()):
        raise ConfigError("LocalGaussian needs a trainer that sends real numbers")
    length = norm(tree)
    if not length < inf:
        return zeros_like(tree), 1.0
    return tree, min(1.0, bound / length) if length else 1.0


def normals(raw: "np.ndarray") -> "np.ndarray":
    """Return standard normal numbers, as many as the 64-bit words ``raw``, float64.

    Box and Muller's transform of each pair (the first half gives radii, the second
    angles), from the top 53 bits of every word; none is beyond 8.7.
    """
    unit = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    half = len(unit) // 2
    radius, angle = np.sqrt(-2 * np.log(unit[:half])), 2 * pi * unit[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def round_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return the least epsilon of one answer of ``LocalGaussian``, for ``delta``.

    The unit is the peer: its data set against any other. Exact to some 1e-4 for the
    smallest ``delta``, far better above; where exponentials overflow (epsilon > 700)
    a little more than needed, never less.

    Args:
        noise_multiplier: sigma / bound, >= 0; 0 gives inf.
        delta: in [1e-12, 1).

    Raises:
        ConfigError: ``noise_multiplier`` or ``delta`` is out of its range.
    """
    if not noise_multiplier >= 0:  # NaN fails too: no noise must never look private
        raise ConfigError(f"noise_multiplier must be >= 0, got {noise_multiplier}")
    if not 1e-12 <= delta < 1:
        raise ConfigError(f"delta must be in [1e-12, 1), got {delta}: try 1e-5")
    if not noise_multiplier:
        return inf
    reach = 2 / noise_multiplier  # sensitivity / sigma
    if _delta(0.0, reach) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, reach) > delta:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, reach) > delta else (low, middle)
    return high


def _delta(epsilon: float, reach: float) -> float:
    """Return the least delta of the Gaussian mechanism at ``epsilon``."""
    near = _below(reach / 2 - epsilon / reach)
    if epsilon > 700:
        return near  # leaving the second term out errs to the safe side
    return near - exp(epsilon) * _below(-reach / 2 - epsilon / reach)


def _below(x: float) -> float:
    """Return the probability that a standard normal number is below ``x``."""
    return erfc(-x / sqrt(2)) / 2
