"""FedBuff: fold a few answers at a time, whoever gives them.

Source:
    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation",
    AISTATS 2022, Algorithm 1. https://arxiv.org/abs/2106.06639

Notation, paper -> here:
    w^t         model                        ``state.params``
    K           answers per fold             the pacer's ``size``
    η_g         server step                  ``server_lr``
    τ_i(t)      age of an answer             ``state.version - update.version``
    s(τ)        1 / sqrt(1 + τ)              ``freshness(...)``
    Δ_i         difference that i sends      ``update.payload``

    w  <-  w + η_g 1/K Σ_i s(τ_i) Δ_i

Departures: none in the sum, unless ``shares`` weighs answers by examples. Who is at
work at once is the pacer's ``concurrency``; by default all are, so that a peer starts
again as soon as it has answered. With a synchronous pacer no answer is old, and this
is FedAvg with even weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.fedavg import Model
from strategies.limits import local_work, positive
from strategies.shares import Shares, check_shares, relative_size
from strategies.staleness import Kind, check_ageing, freshness, pulled


@dataclass(frozen=True, slots=True)
class FedBuff:
    """Move the model by the mean of the buffered answers, the old ones weakened.

    Attributes:
        server_lr: η_g, step along the mean, > 0.
        staleness: how the weight falls with age (``strategies.staleness``).
        a: how fast it falls, >= 0; not for constant.
        b: rounds of age that cost nothing, >= 0; for hinge.
        shares: ``"even"``, or ``"examples"`` for weights by number of examples.
        steps: local batches per work; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per work, >= 1.
    """

    server_lr: float = 1.0
    staleness: Kind = "polynomial"
    a: float = 0.5
    b: float = 4.0
    shares: Shares = "even"
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    usual: ClassVar[Mapping[str, Any]] = {"pacer.name": "buffered", "pacer.size": 5}

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        check_ageing(self)
        check_shares(self.shares)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        mean = sum(u.examples for u in updates) / len(updates)
        step = self.server_lr / len(updates)
        weights = [
            step
            * relative_size(self.shares, u.examples, mean)
            * freshness(self, state.version, u)
            for u in updates
        ]
        params = pulled(state.params, [u.payload for u in updates], weights)
        return Model(state.version + 1, params)
