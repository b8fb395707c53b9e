"""KnFu: every peer learns from those who have seen the same kind of data.

Source:
    Seyedmohammadi et al., "KnFu: Effective Knowledge Fusion", 2024.
    https://arxiv.org/abs/2403.11892 (steps and β; the exact form of its equation 8
    is reconstructed here.)

Notation, paper -> here:
    transfer set         ``public`` unlabelled inputs that all peers have
    P_m                  ``answers[m]["knowledge"]``, (public, classes)
    EPD_m                ``answers[m]["estimate"]``, (classes,): mean shares of the
                         classes that m's model gives on m's own data
    s_nm                 ``weights(...)``, proportional to exp(-β KL(EPD_n || EPD_m))
    K_n = Σ s_nm P_m     ``work.aux["targets"]``
    β                    ``beta``

``beta = 0`` is the plain mean of all, as in FedMD (Li and Wang 2019,
https://arxiv.org/abs/1910.03581); a large one leaves every peer to itself.

Departures:
    There is no common model: peers' own may differ in form, and never leave them.
    ``state.params`` stays the start, which only newcomers are sent; judge a run by the
    accuracy of its peers on their own data.

    The paper ends a round with distillation. Here a peer distils at the start of its
    next work, when the others have answered, then trains and tells; so the model it
    keeps was trained last. A peer's last answer counts until it gives another, and a
    peer gets targets only once it has been heard.

    Distillation is cross-entropy with the shares as targets, at temperature 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts, local_work

FLOOR = 1e-6  # a class never seen is unlikely, not impossible: its logarithm is needed


@dataclass(frozen=True, slots=True)
class Told:
    """What peers have said.

    Attributes:
        version: rounds folded.
        params: where newcomers start; learns nothing.
        answers: last answer of each peer heard: ``knowledge`` (public, classes) and
            ``estimate`` (classes,).
    """

    version: int
    params: Params
    answers: Mapping[PeerId, Params]


@dataclass(frozen=True, slots=True)
class KnFu:
    """Fuse what peers predict on shared inputs, each for itself.

    Attributes:
        beta: how much less those count whose data differ, >= 0; 0 counts all alike.
        public: inputs that all peers have, >= 1.
        classes: classes that the models tell apart, >= 2.
        distill: passes over the public inputs per round, >= 0; 0 learns alone.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    beta: float = 10.0
    public: int = 200
    classes: int = 10
    distill: int = 1
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta < inf:
            raise ConfigError(f"beta must be at least 0 and finite, got {self.beta}")
        counts(1, public=self.public)
        counts(2, classes=self.classes)
        counts(0, distill=self.distill)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Told:
        return Told(0, params, {})

    def work(self, state: Told, peer: PeerId) -> Work:
        hints: dict[str, int | float | str] = {
            "do": "fuse",
            "public": self.public,
            "classes": self.classes,
            "distill": self.distill,
            "memory": "knfu",
        }
        known = peer in state.answers
        return Work(
            state.version,
            {} if known else state.params,
            self.steps,
            self.epochs,
            aux={"targets": fused(state.answers, peer, self.beta)} if known else {},
            hints=hints,
        )

    def expects(self, work: Work) -> Params:
        return {
            "knowledge": torch.zeros(self.public, self.classes),
            "estimate": torch.zeros(self.classes),
        }

    def apply(self, state: Told, updates: Sequence[Update]) -> Told:
        fresh = {u.peer: {k: shares(t) for k, t in u.payload.items()} for u in updates}
        return Told(state.version + 1, state.params, {**state.answers, **fresh})


def fused(answers: Mapping[PeerId, Params], peer: PeerId, beta: float) -> Tensor:
    """Return K_n for ``peer``, who is among ``answers``: (public, classes), float32."""
    peers = sorted(answers)
    estimates = torch.stack([answers[p]["estimate"] for p in peers])
    total = torch.zeros_like(answers[peer]["knowledge"], dtype=torch.float64)
    for other, weight in zip(
        peers, weights(estimates, peers.index(peer), beta), strict=True
    ):
        total += answers[other]["knowledge"].double() * weight
    return total.float()


def weights(estimates: Tensor, own: int, beta: float) -> list[float]:
    """Return how much each peer counts for peer ``own``; they sum to 1.

    Args:
        estimates: shares of the classes of each peer, (peers, classes).
        own: row of the peer who learns.
        beta: how fast the weight falls with the divergence, >= 0.
    """
    logs = estimates.double().clamp_min(FLOOR).log()
    apart = (logs[own].exp() * (logs[own] - logs)).sum(1)  # KL, (peers,)
    return [float(w) for w in (-beta * apart).softmax(0)]


def shares(told: Tensor) -> Tensor:
    """Return ``told`` with every row made shares: none below 0, and a sum of 1.

    A peer may send anything finite; a row without a positive number says nothing, and
    becomes uniform.
    """
    least = told.double().clamp_min(0)
    sums = least.sum(-1, keepdim=True)
    even = torch.full_like(least, 1 / told.shape[-1])
    return torch.where(sums > 0, least / sums.clamp_min(1e-300), even).to(told.dtype)
