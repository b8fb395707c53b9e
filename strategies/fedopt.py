"""FedAdagrad, FedAdam, FedYogi: the mean difference as a gradient, step by step.

Source:
    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    https://arxiv.org/abs/2003.00295

Notation, paper -> here:
    x_t      model               ``state.params``
    Δ_t      mean difference     ``delta``  (points downhill: x_i - x_t)
    m_t      first moment        ``state.m``
    v_t      second moment       ``state.v``
    η        server step         ``server_lr``
    β1, β2   memories            ``beta1``, ``beta2``
    τ        adaptivity          ``tau``; v starts at τ²

Departures: Δ is weighted by examples, as in FedAvg, not even. Running statistics
of normalisation layers take no part: they are averaged. Like the paper, and
unlike Adam, there is no bias correction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedcore.params import Params, add
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.limits import local_work, positive, shares


@dataclass(frozen=True, slots=True)
class Moments:
    """The server's memory; ``m`` and ``v`` are float32 and shaped as the weights."""

    version: int
    params: Params
    m: Params
    v: Params


def _start(params: Params, tau: float) -> Moments:
    weights = weights_of(params)
    m = {k: torch.zeros(t.shape) for k, t in weights.items()}
    v = {k: torch.full(t.shape, tau * tau) for k, t in weights.items()}
    return Moments(0, params, m, v)


def _adapted(
    state: Moments,
    delta: Params,
    second: Callable[[Tensor, Tensor], Tensor],
    server_lr: float,
    beta1: float,
    tau: float,
) -> Moments:
    """Return the next state; ``second`` maps (v, Δ²) to the next v."""
    m = {k: beta1 * old + (1 - beta1) * delta[k] for k, old in state.m.items()}
    v = {k: second(old, delta[k].square()) for k, old in state.v.items()}
    step = {k: server_lr * m[k] / (v[k].sqrt() + tau) for k in m}
    return Moments(state.version + 1, add(state.params, {**delta, **step}), m, v)


@dataclass(frozen=True, slots=True)
class FedAdagrad:
    """Server steps shrink with the sum of all squared differences so far.

    Attributes:
        server_lr: step in units of the weights per m / sqrt(v), > 0.
        beta1: memory of the first moment, in [0, 1); the paper uses 0 here.
        tau: added to sqrt(v), in units of the model difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 0.1
    beta1: float = 0.0
    tau: float = 1e-3
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr, tau=self.tau)
        shares(beta1=self.beta1)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Moments:
        return _start(params, self.tau)

    def work(self, state: Moments, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Moments, updates: Sequence[Update]) -> Moments:
        delta = mean_of(updates)
        return _adapted(state, delta, torch.add, self.server_lr, self.beta1, self.tau)


@dataclass(frozen=True, slots=True)
class FedAdam:
    """Server steps shrink with a moving mean of the squared differences.

    Attributes:
        server_lr: step in units of the weights per m / sqrt(v), > 0.
        beta1: memory of the first moment, in [0, 1).
        beta2: memory of the second moment, in [0, 1).
        tau: added to sqrt(v), in units of the model difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr, tau=self.tau)
        shares(beta1=self.beta1, beta2=self.beta2)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Moments:
        return _start(params, self.tau)

    def work(self, state: Moments, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Moments, updates: Sequence[Update]) -> Moments:
        def second(v: Tensor, squared: Tensor) -> Tensor:
            return self.beta2 * v + (1 - self.beta2) * squared

        delta = mean_of(updates)
        return _adapted(state, delta, second, self.server_lr, self.beta1, self.tau)


@dataclass(frozen=True, slots=True)
class FedYogi:
    """FedAdam whose second moment moves by at most a share of each new square.

    Attributes:
        server_lr: step in units of the weights per m / sqrt(v), > 0.
        beta1: memory of the first moment, in [0, 1).
        beta2: memory of the second moment, in [0, 1).
        tau: added to sqrt(v), in units of the model difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr, tau=self.tau)
        shares(beta1=self.beta1, beta2=self.beta2)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Moments:
        return _start(params, self.tau)

    def work(self, state: Moments, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Moments, updates: Sequence[Update]) -> Moments:
        def second(v: Tensor, squared: Tensor) -> Tensor:
            return v - (1 - self.beta2) * squared * torch.sign(v - squared)

        delta = mean_of(updates)
        return _adapted(state, delta, second, self.server_lr, self.beta1, self.tau)
