"""Ferret: first-order local training whose outcome is folded to a few numbers.

Source:
    Shu et al., "Ferret: Federated Full-Parameter Tuning at Scale for Large Language
    Models", ICML 2025. https://arxiv.org/abs/2409.06277
    Where the text leaves room, the authors' released program decides.

Notation, paper -> here:
    w_0          first model               ``state.base``, never sent twice
    Δ            what a peer learnt        the change that ``descend`` returns
    L            blocks                    ``strategies.ferret_blocks.blocks_of``
    K            coordinates of a round    ``budget``, all blocks together
    K_l          those of block l          ``Epoch.widths``
    v_k          random directions         signs of an epoch, one block apart
    γ            coordinates               the payload, summed by ``Epoch.sums``

Peers train as in FedAvg and send their change folded (``ferret_blocks``): ``4 budget``
bytes, however large the model. The model is ``w_0`` and one integer vector an epoch;
whoever has these has the model, bit for bit.

Departures:
    The program projects on K_l seeded truncated normals: O(K_l d_l) work each way, and
    a third of the change on average. Folded signs are K_l orthogonal directions at
    once: O(d_l), and the mean is right.

    There each peer measures its own norms, picks its own K_l of the K seeds, and sends
    which. Here all fold alike, so that only the sum is needed: the widths of an epoch
    follow from the norms of all that was folded in the epoch before, those of the
    first from the sizes of the blocks. The budget is that of all blocks together.

    The signs change every ``rotate`` rounds, all rounds use the same ones if it is 0.
    Each epoch adds ``8 budget`` bytes to what a newcomer must be sent.

    The paper's rule is "unbiased". Its error is sqrt(d / K) times the change, so that a
    budget small for its model wants a small ``server_lr``. By default the change is
    rebuilt about as long as it was ("length"), and one step serves models of all sizes.

    The program clips each direction's move to norm 10 and has momentum on the server;
    ``server_lr`` is all there is here. Running statistics stay as they were.

    An answer to work of an older epoch is added to the sums of its own epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.params import Params, digest
from fedcore.strategy import PeerId, Update, Work
from strategies.ferret_blocks import (
    RECONSTRUCTIONS,
    Epoch,
    Folding,
    Reconstruct,
    blocks_of,
    first_widths,
    next_widths,
)
from strategies.limits import counts, local_work, positive
from strategies.seeded import held_within, mean_of_integers

WIDTHS = "widths"  # name of the widths of all epochs in a work, (epochs, blocks)
FOLDED = "folded."  # before the number of the epoch, in works and answers
LARGEST = 1 << 62  # size of a sum, in units of 2^-32


@dataclass(frozen=True)
class Folded:
    """The first model, and all that was folded since.

    Attributes:
        version: rounds folded.
        base: w_0.
        base_id: its digest.
        folding: the rules.
        epochs: oldest first, never empty.
        cut: sums cut short at the largest one so far.
    """

    version: int
    base: Params
    base_id: str
    folding: Folding
    epochs: tuple[Epoch, ...]
    cut: int = 0

    @cached_property
    def params(self) -> Params:
        """The model now, made when it is first asked for."""
        return self.folding.rebuilt(self.base, self.epochs)


@dataclass(frozen=True, slots=True)
class Ferret:
    """FedAvg whose answers are folded to ``budget`` numbers.

    Attributes:
        budget: numbers in an answer, >= 1; at least one a block of the model.
        rotate: rounds with the same signs and widths, >= 0; 0 never changes them.
        reconstruct: "unbiased" rebuilds the change on average over the signs,
            "projection" as much of it as fits, and nothing else; "length" makes that
            about as long as the change was.
        seed: names the signs, 0 .. 2^63 - 1.
        server_lr: step along what was rebuilt, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    budget: int = 4096
    rotate: int = 4
    reconstruct: Reconstruct = "length"
    seed: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)
        counts(1, budget=self.budget)
        counts(0, rotate=self.rotate)
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed must be in 0 .. 2^63 - 1, got {self.seed}")
        if self.reconstruct not in RECONSTRUCTIONS:
            near = nearest(self.reconstruct, RECONSTRUCTIONS)
            raise ConfigError(f"reconstruct is {self.reconstruct!r}: {near}")

    @property
    def one_vote(self) -> bool:
        """Whether all answers of a round must be to one version: epochs do not mix."""
        return self.rotate > 0

    def init(self, params: Params) -> Folded:
        blocks = blocks_of(params)
        if not blocks:
            raise ConfigError("the model has no weights, so there is nothing to fold")
        first = _begun(first_widths(blocks, self.budget))
        folding = Folding(self.seed, self.reconstruct, self.server_lr)
        return Folded(0, params, digest(params), folding, (first,))

    def work(self, state: Folded, peer: PeerId) -> Work:
        widths = torch.tensor([epoch.widths for epoch in state.epochs])
        sums = {f"{FOLDED}{e}": epoch.sums for e, epoch in enumerate(state.epochs)}
        return Work(
            state.version,
            state.base,
            self.steps,
            self.epochs,
            aux={WIDTHS: widths, **sums},
            hints={
                "do": "projected",
                "base": state.base_id,
                "seed": self.seed,
                "reconstruct": self.reconstruct,
                "server_lr": float(self.server_lr),
            },
        )

    def model(self, state: Folded, peer: PeerId) -> Params:
        """Return the model that ``peer`` makes of its work."""
        return state.params

    def expects(self, work: Work) -> Params:
        name = f"{FOLDED}{len(work.aux[WIDTHS]) - 1}"
        return {name: torch.zeros(len(work.aux[name]))}

    def apply(self, state: Folded, updates: Sequence[Update]) -> Folded:
        everyone = sum(update.examples for update in updates)
        epochs, cut = list(state.epochs), state.cut
        for name in sorted({name for update in updates for name in update.payload}):
            mine = [update for update in updates if name in update.payload]
            e = int(name.removeprefix(FOLDED))
            sums = epochs[e].sums + mean_of_integers(mine, name, everyone)
            held, over = held_within(sums, LARGEST)
            epochs[e], cut = replace(epochs[e], sums=held), cut + over
        version = state.version + 1
        if self.rotate and version % self.rotate == 0:
            widths = next_widths(blocks_of(state.base), epochs[-1], self.budget)
            epochs.append(_begun(widths))
        return replace(state, version=version, epochs=tuple(epochs), cut=cut)


def _begun(widths: tuple[int, ...]) -> Epoch:
    sums: Tensor = torch.zeros(sum(widths), dtype=torch.int64)
    return Epoch(widths, sums)
