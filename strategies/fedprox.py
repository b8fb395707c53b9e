"""FedProx: FedAvg whose peers are held near the model they started from.

Source:
    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
    Algorithm 2. https://arxiv.org/abs/1812.06127

Notation, paper -> here:
    w^t      model                     ``state.params``
    mu       weight of the pull        ``mu``, sent as the hint ``"mu"``
    h_k      F_k(w) + mu/2 |w - w^t|²  what the trainer minimises

Departures: peers are drawn evenly and their answers weighted by examples, where
the paper draws by examples and weights evenly: the same mean, as in FedAvg. A
peer's work is counted in steps or epochs (a pacer may ask less of a slow peer),
not by an inexactness gamma. The trainer takes the pull from the work's hint:
``mu = 0`` is FedAvg bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.fedavg import Model, moved
from strategies.limits import local_work, positive


@dataclass(frozen=True, slots=True)
class FedProx:
    """FedAvg with a pull of strength ``mu`` towards the round's first model.

    Attributes:
        mu: strength of the pull, >= 0, in units of loss per squared weight.
        server_lr: step along the mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    mu: float = 0.01
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        if not 0 <= self.mu < inf:
            raise ConfigError(f"mu must be at least 0 and finite, got {self.mu}")
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        hints = {"mu": self.mu}
        return Work(state.version, state.params, self.steps, self.epochs, hints=hints)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        return moved(state, mean_of(updates), self.server_lr)
