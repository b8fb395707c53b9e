"""FLoRA: adapters of any ranks are merged through their exact sum.

Source:
    Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
    Low-Rank Adaptations", NeurIPS 2024. https://arxiv.org/abs/2409.05976
    Back to a rank by singular values, and cut for weaker peers: Bai et al. (FlexLoRA),
    NeurIPS 2024. https://arxiv.org/abs/2402.11505
    Padding (``merge="pad"``): Cho et al., "Heterogeneous LoRA for Federated Fine-tuning
    of On-Device Foundation Models" (HetLoRA), EMNLP 2024.
    https://arxiv.org/abs/2401.06432

Notation, paper -> here:
    B_k, A_k     adapter of peer k            ``update.payload``
    p_k          n_k / n                      ``mass`` in ``strategies.merging.stack``
    ⊕            stacking                     ``stacked``
    r_k          rank of peer k               ``Grades``

The mean of products B_k A_k is not the product of the means of B_k and of A_k, which is
what averaging adapters like any other tensors gives.

Departures:
    FLoRA sends the stacked adapters out, and each peer adds their product to its base:
    n times the bytes, and a base that is another each round. Here a model that is
    adapters keeps its rank: the exact mean is brought back to it by singular values. A
    whole model takes the product in, as in FLoRA.

    The mean is over the changes that peers made to the units they were given. FlexLoRA
    counts the units that a weaker peer was not given as gone.

    ``merge="pad"`` fills adapters up with zeros and averages each half by itself, by
    examples; HetLoRA weighs by norms, and its peers prune their own ranks.

    An answer to an older version counts as it is, an adapter among others: use rounds,
    or lower ``server_lr``. One whose product the gate would not pass is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.params import Params, add
from fedcore.strategy import Update
from strategies.limits import local_work, positive
from strategies.lora_sum import mean_product
from strategies.merging.grades import Adapted, Grades, Merging, bounded, folded
from strategies.merging.pairs import pairs_of
from strategies.merging.stack import Halves, moved_stack, refactored

Merge = Literal["product", "pad"]


@dataclass(frozen=True, slots=True)
class Flora(Merging):
    """Low-rank training with the exact mean of the products.

    Attributes:
        merge: ``"product"`` is exact; ``"pad"`` averages halves, filled up with zeros.
        rank: highest rank of a peer, >= 0; 0 is that of the model's adapters, or 8.
        ranks: how many ranks there are, each half of the one before, >= 1.
        server_lr: step along the mean change, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    merge: Merge = "product"
    rank: int = 0
    ranks: int = 1
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"

    def __post_init__(self) -> None:
        known = get_args(Merge)
        if self.merge not in known:
            raise ConfigError(f'merge: no "{self.merge}"; {nearest(self.merge, known)}')
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)
        Grades(self.rank, self.ranks)  # checks them

    def init(self, params: Params) -> Adapted:
        if self.merge == "pad" and not pairs_of(params):
            raise ConfigError(
                'merge="pad" averages adapters, and this model has none: train a task '
                'with adapters, or use merge="product"'
            )
        return self.grades.state(0, params)

    def apply(self, state: Adapted, updates: Sequence[Update]) -> Adapted:
        pairs = pairs_of(state.params)
        params = state.params
        if not pairs:
            mean = mean_product(updates)
            params = add(params, mean, self.server_lr) if mean else params
        elif good := bounded(updates):
            rule = self._exact if self.merge == "product" else self._padded
            params = folded(params, good, rule, self.server_lr)
        return self.grades.state(state.version + 1, params)

    def _exact(
        self, now: Halves, adapters: Sequence[Halves], counts: Sequence[int]
    ) -> Halves:
        return refactored(moved_stack(now, adapters, counts, self.server_lr), now)

    def _padded(
        self, now: Halves, adapters: Sequence[Halves], counts: Sequence[int]
    ) -> Halves:
        """Return ``now`` moved by the mean change of each half, unit by unit."""
        share = self.server_lr / sum(counts)
        up, down = now[0].clone(), now[1].clone()
        for (b, a), n in zip(adapters, counts, strict=True):
            up[:, : len(a)] += (b - now[0][:, : len(a)]) * (n * share)
            down[: len(a)] += (a - now[1][: len(a)]) * (n * share)
        return up, down
