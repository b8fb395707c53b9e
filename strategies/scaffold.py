"""SCAFFOLD: correct each peer's gradients for how its data differ from the rest.

Source:
    Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated
    Learning", ICML 2020, Algorithm 1, option II. https://arxiv.org/abs/1910.06378

Notation, paper -> here:
    x            model                    ``state.params``
    c_i          control of peer i        ``state.controls[peer]``
    c            mean control             ``state.total / len(state.controls)``
    c - c_i      correction               ``work.aux``, added to every gradient
    η_l, η_g     local and server step    ``local_lr``, ``server_lr``
    K            local batches            ``update.metrics["steps"]``
    y_i - x      difference               ``update.payload``

Departures:
    Peers keep nothing. A peer moves by y_i - x = -η_l Σ (g + c - c_i), so option
    II's new control c_i - c + (x - y_i) / (K η_l) is the mean of its plain
    gradients g, and the server finds it from what it sent and what came back. This
    halves the upload, makes a lost peer harmless, and costs the server one model
    per peer.

    It holds for plain SGD with step ``local_lr``: no momentum, no weight decay, no
    clipping. The step goes out as the hint ``"lr"``, which the trainer obeys, so
    that the two cannot differ.

    A peer never heard gets no correction, and c is the mean over the peers heard;
    the paper starts every c_i at 0 and divides by all peers. The two agree when all
    take part; otherwise a newcomer would take c on top of its own first gradients.

    An answer to an older version moves the model and leaves its c_i alone, since
    the correction that it used is gone; so does one without a number of steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

import torch

from fedcore.params import Params, add, scaled, sub
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.limits import local_work, positive


@dataclass(frozen=True, slots=True)
class Controls:
    """The model and what is known of every peer's gradients.

    Attributes:
        version: rounds folded.
        params: the model.
        total: sum of all ``controls``, float32, shaped as the weights.
        controls: mean gradient of each peer heard so far, float32.
    """

    version: int
    params: Params
    total: Params
    controls: Mapping[PeerId, Params]


def correction(state: Controls, peer: PeerId) -> Params:
    """Return c - c_i, or nothing for a peer never heard."""
    own = state.controls.get(peer)
    if own is None:
        return {}
    return sub(scaled(state.total, 1 / len(state.controls)), own)


@dataclass(frozen=True, slots=True)
class Scaffold:
    """FedAvg with control variates against client drift.

    Attributes:
        local_lr: step of the peers' plain SGD, > 0; sent to them.
        server_lr: step along the mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    local_lr: float = 0.1
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    plain_sgd: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(local_lr=self.local_lr, server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Controls:
        weights = weights_of(params)
        total = {k: torch.zeros(t.shape) for k, t in weights.items()}
        return Controls(0, params, total, {})

    def work(self, state: Controls, peer: PeerId) -> Work:
        return Work(
            state.version,
            state.params,
            self.steps,
            self.epochs,
            aux=correction(state, peer),
            hints={"lr": self.local_lr},
        )

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Controls, updates: Sequence[Update]) -> Controls:
        even = [replace(u, examples=1) for u in updates]  # as in the paper
        step = scaled(mean_of(even), self.server_lr)
        fresh = {
            u.peer: self._gradient(state, u) for u in updates if self._tells(state, u)
        }
        total = state.total
        for peer, control in fresh.items():
            old = state.controls.get(peer)
            total = add(total, control if old is None else sub(control, old))
        controls = {**state.controls, **fresh}
        return Controls(state.version + 1, add(state.params, step), total, controls)

    def _steps(self, update: Update) -> float:
        return update.metrics.get("steps", self.steps)

    def _tells(self, state: Controls, update: Update) -> bool:
        return update.version == state.version and 1 <= self._steps(update) < inf

    def _gradient(self, state: Controls, update: Update) -> Params:
        """Return c_i+, the mean of the gradients before correction."""
        moved = {k: t.float() for k, t in weights_of(update.payload).items()}
        used = scaled(moved, -1 / (self._steps(update) * self.local_lr))
        sent = correction(state, update.peer)
        return sub(used, sent) if sent else used
