"""FedAvgM: the server gives FedAvg's step a memory.

Source:
    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", 2019. https://arxiv.org/abs/1909.06335

Notation, paper -> here:
    w        model               ``state.params``
    Δw       mean difference     ``delta``  (points downhill here: w_k - w)
    v        velocity            ``state.m``
    β        memory              ``beta``

Departures: ``server_lr`` scales the step; the paper's is 1. Running statistics of
normalisation layers are averaged without memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fedcore.params import Params, add, scaled
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.limits import local_work, positive, shares


@dataclass(frozen=True, slots=True)
class Momentum:
    """The model and its velocity; ``m`` is float32 and shaped as the weights."""

    version: int
    params: Params
    m: Params


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """FedAvg with momentum on the server.

    Attributes:
        server_lr: step along the velocity, > 0.
        beta: share of the velocity kept from round to round, in [0, 1).
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 1.0
    beta: float = 0.9
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        shares(beta=self.beta)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Momentum:
        weights = weights_of(params)
        return Momentum(
            0, params, {k: torch.zeros(t.shape) for k, t in weights.items()}
        )

    def work(self, state: Momentum, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Momentum, updates: Sequence[Update]) -> Momentum:
        delta = mean_of(updates)
        m = {k: self.beta * old + delta[k] for k, old in state.m.items()}
        step = {**delta, **scaled(m, self.server_lr)}
        return Momentum(state.version + 1, add(state.params, step), m)
