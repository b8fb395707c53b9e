"""Coordinate median and trimmed mean: outvote attackers number by number.

Source:
    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates", ICML 2018, Algorithm 1. https://arxiv.org/abs/1803.01498

Notation, paper -> here:
    m        updates             ``len(updates)``
    α m      arbitrary updates   ``attackers``
    β m      cut at each end     ``attackers`` (the paper cuts a share β >= α)
    g_i      message of i        ``update.payload``

Departures: messages are model differences after local work, not gradients. All
updates count alike, whatever their ``examples``: a claimed weight is one more
thing an attacker may lie about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.fedavg import Model, moved
from strategies.limits import counts, local_work, outvoted, positive
from strategies.ranks import middle_mean


def _middle(updates: Sequence[Update], cut: int) -> Params:
    names = updates[0].payload
    return {k: middle_mean([u.payload[k] for u in updates], cut) for k in names}


@dataclass(frozen=True, slots=True)
class CoordinateMedian:
    """Move each weight by the median of what the peers ask for it.

    Fewer than half of a round's updates, whatever they hold, cannot move a weight
    beyond what the others ask. Of an even number, the two middle values are
    averaged; one or two updates are their own mean, and outvote nobody.

    Attributes:
        server_lr: step along the median difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    one_vote: ClassVar[bool] = True

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
        middle = _middle(updates, (len(updates) - 1) // 2)
        return moved(state, middle, self.server_lr)


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Move each weight by the mean of what is left after cutting both ends.

    Up to ``attackers`` updates, whatever they hold, cannot move a weight beyond
    what the others ask.

    Attributes:
        attackers: values cut at each end, >= 0; a round needs 2 * attackers + 1.
        server_lr: step along the trimmed mean, > 0.
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
        return 2 * self.attackers + 1

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        return Work(state.version, state.params, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        outvoted(updates, self.fewest, self.attackers)
        return moved(state, _middle(updates, self.attackers), self.server_lr)
