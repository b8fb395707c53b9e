"""Federated averaging.

Source:
    McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, Algorithm 1. https://arxiv.org/abs/1602.05629

Notation, paper -> here:
    w_t      model               ``state.params``
    n_k      examples of k       ``update.examples``
    E        local passes        ``epochs``
    B        batch size          the task's

Departures: peers send the difference w_k - w_t, so that ``server_lr`` can scale
the step and one fixed-point sum serves every strategy (``fedcore.ring``); the
plain algorithm is ``server_lr = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedcore.params import Params, add
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work


@dataclass(frozen=True, slots=True)
class Model:
    """State of every strategy that keeps one model: ``version`` rounds are folded."""

    version: int
    params: Params


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Move the model by the mean of the peers' differences.

    Attributes:
        server_lr: step along the mean difference; 1.0 is plain FedAvg.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        delta = mean_of(updates)
        return Model(state.version + 1, add(state.params, delta, self.server_lr))
