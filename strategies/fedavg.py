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

from fedcore.params import Params, add, scaled
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import local_work, positive


@dataclass(frozen=True, slots=True)
class Model:
    """State of every strategy that keeps one model: ``version`` rounds are folded."""

    version: int
    params: Params


def moved(state: Model, delta: Params, server_lr: float) -> Model:
    """Return the next state: the model plus ``server_lr * delta``.

    The product is rounded before the sum: a fused multiply-add would give other
    last bits on machines that have none.
    """
    return Model(state.version + 1, add(state.params, scaled(delta, server_lr)))


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Move the model by the mean of the peers' differences.

    Attributes:
        server_lr: step along the mean difference, > 0; 1.0 is plain FedAvg.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        return moved(state, mean_of(updates), self.server_lr)
