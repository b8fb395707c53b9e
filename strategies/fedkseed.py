"""FedKSeed: whole models fine-tuned together in a few kilobytes a round.

Peers probe the loss along directions of a small pool that all can make from a seed,
and send how far they went along each: K numbers, whatever the size of the model.

Source:
    Qin et al., "Federated Full-Parameter Tuning of Billion-Sized Language Models with
    Communication Cost under 18 Kilobytes" (FedKSeed and FedKSeed-Pro), ICML 2024.
    https://arxiv.org/abs/2312.06353

Notation, paper -> here:
    s_1..s_K, z      seeds, directions      ``fedcore.pool``
    w^0              first model            ``state.base``
    A                scalar accumulator     ``state.coefficients``, int64, unit 2^-32
    η, ε, τ          step, probe, steps     ``lr``, ``eps``, ``steps``
    g                scalar of a probe      see ``strategies.probing``
    G_k, p           history, chances       ``Weighed.sizes / .counts``, ``chances``

Departures:
    Directions are signed Hadamard rows: K scalars become weights in one pass instead
    of K. Scalars are summed as integers and the model is expanded from w^0 with one
    rounding, so replicas hold the same bits; the paper replays steps in half precision.
    The K sums are sent, not a list of (seed, scalar): that is all the server uses, and
    so sums of many peers will do (``needs = "sum"``). Which seed a step takes follows
    from round, peer and step; a peer cannot choose.

    Scalars are divided by halvings of the step before they are summed, so ``lr`` may
    change from round to round, which the paper's replay forbids. ``rotate`` begins a
    new pool on top of what is learnt: the paper's model can only move in K directions.

    Pro, in the paper, keeps every scalar ever seen. Here peers send per seed the sum
    of |g| and how many there were; the server adds up both, weighted as everything
    else, and their ratio is the same mean. A seed not yet seen counts as the mean of
    those seen (the paper starts all at 0). The chances, at most e to 1, are sent as
    bytes. As in the paper, steps are not corrected for the chances.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import fsum
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import local_work
from strategies.probing import Probing
from strategies.seeded import Seeded, epoch_of, folded, mean_of_integers

LARGEST = 1000.0  # a mean |g| above counts as this
LEAST = 93  # the smallest chance; e times it is 253, a byte


@dataclass(frozen=True, slots=True)
class FedKSeed(Probing):
    """Move along K shared directions by what the peers' probes say on average.

    Attributes:
        steps: probes per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        Probing.__post_init__(self)
        local_work(self.steps, self.epochs)
        self.check_probes(max(1, self.steps))

    def init(self, params: Params) -> Seeded:
        return self.start(params)

    def work(self, state: Seeded, peer: PeerId) -> Work:
        hints = self.asked(state.version, state.pool, "sums")
        return Work(
            *(state.version, state.base, self.steps, self.epochs),
            aux={"coefficients": state.coefficients},
            hints={**hints, "base": state.base_id},
        )

    def expects(self, work: Work) -> Params:
        return {"coefficients": torch.zeros(self.size)}

    def apply(self, state: Seeded, updates: Sequence[Update]) -> Seeded:
        return folded(state, updates, self.rotate)


@dataclass(frozen=True)
class Weighed(Seeded):
    """A model of few integers, and what is known of each direction's slopes.

    Attributes:
        sizes: sum of the rounds' mean |g| sums, int64 (K,), unit 2^-32.
        counts: sum of the rounds' mean numbers of probes, int64 (K,), unit 2^-32.
    """

    sizes: Tensor = field(kw_only=True)
    counts: Tensor = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class FedKSeedPro(Probing):
    """FedKSeed that probes directions with steep slopes more often.

    Attributes:
        steps: probes per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        Probing.__post_init__(self)
        local_work(self.steps, self.epochs)
        self.check_probes(max(1, self.steps))

    def init(self, params: Params) -> Weighed:
        start = self.start(params)
        none = torch.zeros(self.size, dtype=torch.int64)
        parts = {f.name: getattr(start, f.name) for f in fields(start)}
        return Weighed(**parts, sizes=none, counts=none)

    def work(self, state: Weighed, peer: PeerId) -> Work:
        hints = self.asked(state.version, state.pool, "weighed")
        aux = {
            "coefficients": state.coefficients,
            "chances": chances(state.sizes, state.counts),
        }
        return Work(
            *(state.version, state.base, self.steps, self.epochs),
            aux=aux,
            hints={**hints, "base": state.base_id},
        )

    def expects(self, work: Work) -> Params:
        names = ("coefficients", "sizes", "counts")
        return {name: torch.zeros(self.size) for name in names}

    def apply(self, state: Weighed, updates: Sequence[Update]) -> Weighed:
        after = folded(state, updates, self.rotate)
        now = epoch_of(state.version, self.rotate)
        if epoch_of(after.version, self.rotate) != now:
            none = torch.zeros_like(state.sizes)
            return replace(after, sizes=none, counts=none)
        mine = [u for u in updates if epoch_of(u.version, self.rotate) == now]
        if not mine:
            return after
        sizes, seen = (
            mean_of_integers(mine, name).clamp(min=0) for name in ("sizes", "counts")
        )
        return replace(after, sizes=state.sizes + sizes, counts=state.counts + seen)


def chances(sizes: Tensor, counts: Tensor) -> Tensor:
    """Return how likely each direction is, against the others: uint8 (K,), 93 .. 253.

    Softmax of the mean slopes after they are brought to [0, 1], as in the paper.
    """
    seen = counts > 0
    if not seen.any():
        return torch.full(sizes.shape, LEAST, dtype=torch.uint8)
    slopes = (sizes.double() / counts.clamp(min=1).double()).clamp(max=LARGEST)
    middle = fsum(slopes[seen].tolist()) / int(seen.sum())  # exact in any order
    slopes = torch.where(seen, slopes, middle)
    low, high = slopes.aminmax()
    even = (slopes - low) / (high - low) if high > low else torch.zeros_like(slopes)
    return (LEAST * _exp(even)).round().to(torch.uint8)


def _exp(x: Tensor) -> Tensor:
    """Return e^x for x in [0, 1] by Taylor's series: libraries differ in last bits."""
    total = torch.ones_like(x)
    for term in range(14, 0, -1):
        total = total * x / term + 1
    return total
