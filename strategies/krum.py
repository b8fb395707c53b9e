"""Krum and Multi-Krum: follow the updates that have the closest company.

Source:
    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", NeurIPS 2017. https://arxiv.org/abs/1703.02757

Notation, paper -> here:
    n        updates             ``len(updates)``
    f        arbitrary updates   ``attackers``; n >= 2 f + 3
    V_i      proposal of i       ``update.payload``
    s(i)     score               sum of the n - f - 2 least |V_i - V_j|²
    m        updates averaged    ``keep``, in Multi-Krum

Departures: proposals are model differences after local work, not gradients; all
count alike, whatever their ``examples``. Of equal scores the first by peer wins.
Scores come from float64 matrix products, whose last bits may differ from machine
to machine: two scores closer than that, and not equal, could be ranked differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import ClassVar, Literal

from fedcore.params import Params
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.distances import squared_distances
from strategies.fedavg import Model, moved
from strategies.limits import counts, local_work, outvoted, positive


def ranked(updates: Sequence[Update], attackers: int) -> list[int]:
    """Return the indices of ``updates`` from the least score to the greatest."""
    near = len(updates) - attackers - 2
    rows = squared_distances([u.payload for u in updates]).tolist()
    scores = [fsum(sorted(row[:i] + row[i + 1 :])[:near]) for i, row in enumerate(rows)]
    return sorted(range(len(updates)), key=lambda i: (scores[i], i))


@dataclass(frozen=True, slots=True)
class Krum:
    """Move the model by the one update closest to its neighbours.

    Attributes:
        attackers: f, updates that may be arbitrary, >= 0; a round needs 2 f + 3.
        server_lr: step along the chosen difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    attackers: int = 1
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    one_vote: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts(0, attackers=self.attackers)
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    @property
    def fewest(self) -> int:
        """Updates that a round needs; the pacer's quorum must not be below."""
        return 2 * self.attackers + 3

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        outvoted(updates, self.fewest, self.attackers)
        best = updates[ranked(updates, self.attackers)[0]]
        return moved(state, best.payload, self.server_lr)


@dataclass(frozen=True, slots=True)
class MultiKrum:
    """Move the model by the mean of the ``keep`` updates of least score.

    Attributes:
        attackers: f, updates that may be arbitrary, >= 0; a round needs 2 f + 3.
        keep: m, updates averaged; 0 keeps n - f - 2 of the n that came.
        server_lr: step along their mean, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    attackers: int = 1
    keep: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    one_vote: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts(0, attackers=self.attackers, keep=self.keep)
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    @property
    def fewest(self) -> int:
        """Updates that a round needs; the pacer's quorum must not be below.

        At least n - f are honest, and more than those are never averaged.
        """
        return max(2 * self.attackers + 3, self.keep + self.attackers)

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        outvoted(updates, self.fewest, self.attackers)
        keep = self.keep or len(updates) - self.attackers - 2
        best = sorted(ranked(updates, self.attackers)[:keep])
        mean = mean_of([replace(updates[i], examples=1) for i in best])
        return moved(state, mean, self.server_lr)
