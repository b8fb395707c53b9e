"""FedCompass: every answer moves the model by its own share, less the older it is.

Source:
    Li et al., "FedCompass: Efficient Cross-Silo Federated Learning on Heterogeneous
    Client Devices using a Computing Power Aware Scheduler", ICLR 2024, Algorithm 1.
    https://arxiv.org/abs/2309.14675

Notation, paper -> here:
    w           model                              ``state.params``
    t           global time stamp                  ``state.version``
    p_i         share of peer i, 1/m or n_i/n      ``shares``, ``clients``
    α St(t-τ)   weight of an answer's age          ``gain * freshness(...)``
    Δ_i         difference that peer i sends       ``update.payload``

    w  <-  w + Σ_i α p_i St(t - τ_i) Δ_i

When peers start, with how many batches, and what is folded together is the pacer's:
``strategies.compass_pacer``. This sum goes with any pacer: with a synchronous one all
peers, each fresh, and ``gain = 1`` it is the plain mean.

Departures: shares are even, 1/m, unless ``shares`` is ``"examples"``; the authors'
code (APPFL 1.12.0) knows even ones only. If nobody says what m is, it is 1 there, and
every answer moves the model by its whole length; here it is the number of peers heard
so far, and n is m times their mean number of examples. Differences of many batches are
not scaled to the length of those of few (neither there).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts, local_work, positive
from strategies.shares import Shares, check_shares, relative_size
from strategies.staleness import Kind, check_ageing, freshness, pulled


@dataclass(frozen=True, slots=True)
class Heard:
    """The model, and who has ever answered.

    Attributes:
        sizes: examples of each peer heard so far, as it last said.
    """

    version: int
    params: Params
    sizes: Mapping[PeerId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FedCompass:
    """Add all answers, each by a share that falls with its age.

    Attributes:
        gain: α, weight of a fresh answer before it is shared out, > 0.
        staleness: how the weight falls with age (``strategies.staleness``).
        a: how fast it falls, >= 0; not for constant.
        b: rounds of age that cost nothing, >= 0; for hinge.
        shares: ``"even"``, or ``"examples"`` for shares by number of examples.
        clients: m, peers of the federation; 0 takes those heard so far.
        steps: local batches per work where the pacer names none; 0 counts ``epochs``.
        epochs: passes over the peer's examples, >= 1, where no steps are named.
    """

    gain: float = 0.9
    staleness: Kind = "polynomial"
    a: float = 0.5
    b: float = 4.0
    shares: Shares = "even"
    clients: int = 0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    usual: ClassVar[Mapping[str, Any]] = {"pacer.name": "compass"}

    def __post_init__(self) -> None:
        positive(gain=self.gain)
        check_ageing(self)
        check_shares(self.shares)
        counts(0, clients=self.clients)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Heard:
        return Heard(0, params)

    def work(self, state: Heard, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Heard, updates: Sequence[Update]) -> Heard:
        sizes = {**state.sizes, **{u.peer: u.examples for u in updates}}
        mean = sum(sizes.values()) / len(sizes)
        gain = self.gain / (self.clients or len(sizes))
        weights = [
            gain
            * relative_size(self.shares, u.examples, mean)
            * freshness(self, state.version, u)
            for u in updates
        ]
        params = pulled(state.params, [u.payload for u in updates], weights)
        return Heard(state.version + 1, params, sizes)
