"""FedSpine: each device trains adapters of its own rank on a model pruned for it.

Source:
    Yao et al., "Efficient Deployment of Large Language Models on
    Resource-constrained Devices", 2025. https://arxiv.org/abs/2501.02438
    Its structure is followed; constants and the form of the reward are ours.

Notation, paper -> here:
    r_i          rank of device i            ``Arm.rank``
    p_i          pruning ratio               ``Arm.ratio``
    S-UCB        choice of both              ``strategies.bandit`` over a fixed grid
    ΔW = B A     what a device learns        ``strategies.lora_sum``

A round: for each device the bandit picks an arm, a rank and a ratio. The device
prunes that share of the columns of every matrix, those of least importance, trains
adapters on what is left (``clients.trainers.lowrank``) and answers with the factors.
The server adds the exact mean of the products to the model.

Reward of an arm, in [0, 1], the mean of these weighted by their keys:
    loss_weight        how much of the loss on the first batch went away
    importance_weight  share of importance that was not pruned
    prune_weight       the ratio itself
    time_weight        median seconds of the round / (the median + own seconds)

Departures:
    The paper refines a continuous plane of (p, r) as it learns; here the arms are
    a fixed grid and the rule is plain UCB.

    The paper prunes whole attention heads and channels, for good. Here a device
    prunes columns (inputs) of each matrix for the round, and the model of the
    server stays whole: another device, or round, may use what this one left out.

    Adapters are merged after each round and begin anew, so that the model's change may
    reach any rank; ``truncate`` limits each round's. Tensors that are no matrices are
    trained densely.

    A is drawn with variance 1 / ``max_rank`` at every rank. So adapters of the highest
    rank begin, on average over A, as plain SGD would with the same step size, lower
    ones as a slower one, and a step that is stable at the highest rank is so at all.

    Seconds are measured by a coordinator only. With ``time_weight`` above 0 arms
    depend on the clock, and bits are the same only where the times are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import ClassVar, Literal

from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params, add
from fedcore.strategy import PeerId, Update, Work
from strategies.bandit import BanditController, Record
from strategies.limits import counts, local_work, positive, shares
from strategies.lora_sum import (
    factored,
    is_factored,
    mean_product,
    too_large,
    truncated,
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One choice for a device: the rank of its adapters, and how much it prunes."""

    rank: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Spine:
    """The model, and what every device has shown so far."""

    version: int
    params: Params
    records: Mapping[PeerId, Record]


@dataclass(frozen=True, slots=True)
class FedSpine:
    """Low-rank training whose ranks and pruning ratios follow a bandit.

    Attributes:
        max_rank: highest rank of an adapter, >= 1.
        ranks: how many ranks there are to choose from, each half of the one before.
        max_ratio: largest share of columns to prune, in [0, 1).
        ratios: how many ratios to choose from, evenly from 0 to ``max_ratio``;
            1 leaves ``max_ratio`` alone.
        explore: see ``BanditController``.
        loss_weight: of the loss that went away, in the reward, >= 0.
        importance_weight: of the importance that was kept, >= 0.
        prune_weight: of the pruning ratio, >= 0.
        time_weight: of being quick, >= 0; needs a coordinator, which has a clock.
        truncate: rank of the change of each matrix in a round; 0 for any.
        server_lr: step along the mean, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    max_rank: int = 8
    ranks: int = 3
    max_ratio: float = 0.5
    ratios: int = 3
    explore: float = 0.3
    loss_weight: float = 1.0
    importance_weight: float = 0.25
    prune_weight: float = 0.25
    time_weight: float = 0.0
    truncate: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)
        counts(1, max_rank=self.max_rank, ranks=self.ranks, ratios=self.ratios)
        counts(0, truncate=self.truncate)
        shares(max_ratio=self.max_ratio)
        if min(self.reward_weights) < 0 or not 0 < sum(self.reward_weights) < inf:
            raise ConfigError(
                "loss_weight, importance_weight, prune_weight and time_weight must be "
                f">= 0 and not all 0: {self.reward_weights}"
            )
        if self.max_rank >> (self.ranks - 1) < 1:
            raise ConfigError(
                f"max_rank {self.max_rank} cannot be halved {self.ranks - 1} times: "
                f"lower ranks, or raise max_rank to {1 << (self.ranks - 1)}"
            )
        BanditController(1, self.explore)  # checks it

    @property
    def reward_weights(self) -> tuple[float, float, float, float]:
        """Weights of loss, importance, pruning and time."""
        return (
            self.loss_weight,
            self.importance_weight,
            self.prune_weight,
            self.time_weight,
        )

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All choices: high ranks first, and small ratios first among them."""
        steps = range(self.ratios)
        last = self.ratios - 1
        cuts = [self.max_ratio * i / last if last else self.max_ratio for i in steps]
        return tuple(
            Arm(self.max_rank >> i, cut) for i in range(self.ranks) for cut in cuts
        )

    @property
    def bandit(self) -> BanditController:
        """Who chooses among ``arms``."""
        return BanditController(self.ranks * self.ratios, self.explore)

    def init(self, params: Params) -> Spine:
        return Spine(0, params, {})

    def work(self, state: Spine, peer: PeerId) -> Work:
        number = self.bandit.pick(self._record(state, peer), peer)
        arm = self.arms[number]
        return Work(
            state.version,
            state.params,
            self.steps,
            self.epochs,
            hints={
                "do": "lowrank",
                "rank": arm.rank,
                "ratio": arm.ratio,
                "scale": self.max_rank**-0.5,
                "arm": number,
                "memory": "fedspine",
            },
        )

    def expects(self, work: Work) -> Params:
        return factored(work.params, int(work.hints["rank"]))

    def unfit(self, update: Update) -> str | None:
        """Return why ``update`` cannot be folded, though the gate let it pass."""
        return too_large(update)

    def apply(self, state: Spine, updates: Sequence[Update]) -> Spine:
        mean = {name: self._limited(t) for name, t in mean_product(updates).items()}
        params = add(state.params, mean, self.server_lr) if mean else state.params
        times = [t for u in updates if (t := u.metrics.get("took_s", 0.0)) > 0]
        usual_s = median(times) if times else 0.0
        records = dict(state.records)
        for update in updates:
            record = records.get(update.peer, self.bandit.new())
            records[update.peer] = self._learnt(record, update, usual_s)
        return Spine(state.version + 1, params, records)

    def _record(self, state: Spine, peer: PeerId) -> Record:
        return state.records.get(peer, self.bandit.new())

    def _limited(self, t: Tensor) -> Tensor:
        return truncated(t, self.truncate) if self.truncate and is_factored(t) else t

    def _learnt(self, record: Record, update: Update, usual_s: float) -> Record:
        number = update.metrics.get("arm", -1.0)  # told by the device, so checked
        if number not in range(self.bandit.arms):
            return record
        reward = self._reward(update, self.arms[int(number)], usual_s)
        return self.bandit.learn(record, int(number), reward)

    def _reward(self, update: Update, arm: Arm, usual_s: float) -> float:
        took_s = update.metrics.get("took_s", 0.0)
        parts = (
            _share(update.metrics.get("drop", 0.0)),
            _share(update.metrics.get("kept", 0.0)),
            arm.ratio,
            usual_s / (usual_s + took_s) if took_s > 0 else 0.5,
        )
        weighted = sum(w * x for w, x in zip(self.reward_weights, parts, strict=True))
        return weighted / sum(self.reward_weights)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
