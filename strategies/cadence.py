"""FedCadence: FedAvg of peers that did unlike amounts of work, on one beat.

Our own variant of FedCompass, to go with the pacer of ``strategies.cadence_pacer``.

Source: it takes from
    Li et al., "FedCompass", ICLR 2024 (weights that fall with age; unlike numbers of
    batches for unlike devices). https://arxiv.org/abs/2309.14675
    Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization" (FedNova), NeurIPS 2020. https://arxiv.org/abs/2007.07481

Notation:
    n_i, N    examples of peer i, and of all peers heard so far   ``state.examples``
    k_i       batches it did for its answer                ``update.metrics["steps"]``
    K         Σ n_i k_i^-evening / Σ n_i over the answers of the fold
    τ_i       age of its answer                            ``freshness(...)``
    Δ_i       difference that it sends                     ``update.payload``

    w  <-  w + gain Σ_i n_i / N  s(τ_i)  k_i^-evening / K  Δ_i

When all peers answer a fold, fresh and with as many batches, this is FedAvg.

Against FedCompass's sum:
    By examples. With even shares a peer of few examples moves the model as far as one
    of many, and its few classes with it.
    Evened. The answer of a peer that could do one batch is shorter than one of twenty,
    and its classes would hardly count. FedNova (``evening = 1``) scales by 1 / k_i. But
    steps on few classes soon saturate: twenty batches do not move the model twenty
    times as far, and full evening overshoots for the very slow. The root is between.
    Peers not heard yet do not count in N: a beat moves the model by its full length,
    also while a straggler's first answer is awaited.

What evening is worth is measured by ``fedcore bench strategies`` (rows ``fedcadence``,
``evening 0`` and ``evening 1``): with exponential speeds the root makes no difference
beyond noise, and full evening is a little behind. It is there for a peer that is very
much slower than the rest. How all this compares with FedCompass, as published and with
shares by examples, ``fedcore bench async`` says.

What a peer says of its batches is a claim. Evening moves weight from long answers to
short ones and adds none: a fold's weights have the sum that they have without it, so a
liar gains at most what its ``examples``, a claim as well, could give it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import local_work, positive
from strategies.staleness import Kind, check_ageing, freshness, pulled


@dataclass(frozen=True, slots=True)
class Choir:
    """The model, and how many examples everyone has who ever answered."""

    version: int
    params: Params
    examples: Mapping[PeerId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FedCadence:
    """Add all answers by share of the examples, brought nearer to one length.

    Attributes:
        gain: step along the weighted sum, > 0; 1.0 is plain averaging.
        evening: how far answers of few batches are lengthened and those of many
            shortened, in [0, 1]; 0 not at all, 1 in proportion.
        staleness: how the weight falls with age (``strategies.staleness``).
        a: how fast it falls, >= 0; not for constant.
        b: rounds of age that cost nothing, >= 0; for hinge.
        steps: local batches per work where the pacer names none; 0 counts ``epochs``.
        epochs: passes over the peer's examples, >= 1, where no steps are named.
    """

    gain: float = 1.0
    evening: float = 0.5
    staleness: Kind = "polynomial"
    a: float = 0.5
    b: float = 4.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    usual: ClassVar[Mapping[str, Any]] = {"pacer.name": "cadence"}

    def __post_init__(self) -> None:
        positive(gain=self.gain)
        if not 0 <= self.evening <= 1:
            raise ConfigError(f"evening must be in [0, 1], got {self.evening}")
        check_ageing(self)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Choir:
        return Choir(0, params)

    def work(self, state: Choir, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Choir, updates: Sequence[Update]) -> Choir:
        examples = {**state.examples, **{u.peer: u.examples for u in updates}}
        shares = self._evened(updates)
        unit = self.gain / sum(examples.values())
        fresh = [freshness(self, state.version, u) for u in updates]
        weights = [unit * n * s for n, s in zip(shares, fresh, strict=True)]
        params = pulled(state.params, [u.payload for u in updates], weights)
        return Choir(state.version + 1, params, examples)

    def _evened(self, updates: Sequence[Update]) -> list[float]:
        """Return examples that answers count for: shifted to short ones, none added."""
        raw = [u.examples * _steps(u) ** -self.evening for u in updates]
        kept = sum(u.examples for u in updates) / sum(raw)
        return [kept * share for share in raw]


def _steps(update: Update) -> float:
    """Return the batches behind ``update``, >= 1; 1 if it does not say."""
    steps = update.metrics.get("steps", 1.0)
    return steps if 1 <= steps < inf else 1.0
