"""LoRA-LEGO: the units of all adapters are clustered, and each cluster becomes one.

Source:
    Zhao et al., "Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to
    Extremes Through Rank-Wise Clustering", ICLR 2025. https://arxiv.org/abs/2409.16167

Notation, paper -> here: see ``strategies.merging.units``, which does the merging.

Departures:
    The paper merges finished adapters once; here it is the rule of every round. Units
    count by the examples of their peer, and one that a weaker peer was not given counts
    for that peer as it was.

    Peers that train the same adapters of a model start from the same units, and units
    that were one stay close: clusters are then these units again, and the rule averages
    halves unit by unit, as FedAvg does, but for the sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from fedcore.errors import ConfigError
from fedcore.params import Params, add
from fedcore.partial import mean_of
from fedcore.strategy import Update
from strategies.limits import counts, local_work
from strategies.lora_sum import UP
from strategies.merging.grades import (
    Adapted,
    Grades,
    Merging,
    bounded,
    folded,
    halves_of,
    made_pairs,
)
from strategies.merging.pairs import pairs_of
from strategies.merging.stack import (
    Halves,
    Stack,
    moved_stack,
    one_thread,
    row_norm,
    stacked,
)
from strategies.merging.units import clustered


@dataclass(frozen=True, slots=True)
class Lego(Merging):
    """Low-rank training with adapters merged unit by unit.

    Attributes:
        rank: highest rank of a peer, and units left for each matrix of a whole model,
            >= 0; 0 is that of the model's adapters, or 8.
        ranks: how many ranks there are, each half of the one before, >= 1.
        passes: most rounds of k-means, >= 1.
        reweight: a merged unit keeps the size that its members count together.
        server_lr: step along the mean change, in (0, 1].
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    rank: int = 0
    ranks: int = 1
    passes: int = 50
    reweight: bool = True
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.server_lr <= 1:
            raise ConfigError(f"server_lr must be in (0, 1], got {self.server_lr}")
        counts(1, passes=self.passes)
        local_work(self.steps, self.epochs)
        Grades(self.rank, self.ranks)  # checks them

    def apply(self, state: Adapted, updates: Sequence[Update]) -> Adapted:
        pairs, params = pairs_of(state.params), state.params
        if good := bounded(updates):
            if pairs:
                params = folded(params, good, self._merged, self.server_lr)
            else:
                with one_thread():
                    params = add(params, self._change(good), self.server_lr)
        return self.grades.state(state.version + 1, params)

    def _merged(
        self, now: Halves, adapters: Sequence[Halves], counts: Sequence[int]
    ) -> Halves:
        """Return few units with the form of ``now``; what is left over begins anew."""
        up, down = (t.clone() for t in now)
        stack = moved_stack(now, adapters, counts, self.server_lr)
        ups, downs = self._units(stack, len(down))
        size = row_norm(down)
        up.zero_()
        up[:, : len(downs)] = ups / size
        down[: len(downs)] = downs * size
        return up, down

    def _change(self, updates: Sequence[Update]) -> Params:
        """Return the change of a whole model by the adapters that peers made for it."""
        pairs = made_pairs(updates[0].payload)
        halves = {name for p in pairs for name in (p.up, p.down)}
        rest = [n for n in updates[0].payload if n not in halves]
        tree: dict[str, torch.Tensor] = {}
        if rest:
            tree |= mean_of(
                [replace(u, payload={n: u.payload[n] for n in rest}) for u in updates]
            )
        weights = [u.examples for u in updates]
        for p in pairs:
            stack = stacked([halves_of(u.payload, p) for u in updates], weights)
            ups, downs = self._units(stack, self.grades.own)
            tree[p.up.removesuffix(UP)] = ups @ downs
        return tree

    def _units(self, stack: Stack, count: int) -> Halves:
        return clustered(stack, count, self.passes, reweight=self.reweight)
