"""KAFAL: federated learning that also chooses which examples get a label.

Source:
    Cao et al., "Knowledge-Aware Federated Active Learning with Non-IID Data", ICCV
    2023, Algorithm 1. https://arxiv.org/abs/2211.13579

Notation, paper -> here:
    KSAS     how far server and peer disagree     ``query="ksas"``
    KCFU     balanced softmax, and advice of      ``loss="kcfu"``; without the advice
             the server on mixed inputs           ``loss="balanced"``
    n_k[c]   labelled examples of class c         counted by the peer
    b_k      labels per query                     ``more`` times its examples
    β        share of one input in a mix          Beta(2, 2), drawn for each
    ω        what a mix counts                    by rarity of the two classes seen

Rounds go in cycles: ``cycle`` of training, averaged as in FedAvg by the number of
labelled examples, and one in which peers choose examples and get their labels. Which
ones, and the labels, stay with the peer; the server sees how many.

Departures:
    A class that a peer has no label of is left out of KSAS; the released code takes the
    logarithm of its count, 0, and gets numbers that are none. In KCFU every input has a
    partner and a share of its own, where the code mixes a whole batch with one input;
    and ω follows the classes the server sees in the two inputs, not in their mix.

    The model goes on from cycle to cycle. ``restart`` begins each from the first model,
    as the paper does. The server's advice is left out in the first round of all, or of
    each restarted cycle: that model knows nothing.

    A peer that has not trained yet, or whose models agree, chooses by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fedcore.errors import ConfigError
from fedcore.params import Params, add, scaled
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts, local_work, positive


@dataclass(frozen=True, slots=True)
class Cycle:
    """The model and where it began.

    Attributes:
        version: rounds folded, those of choosing too.
        params: the model.
        first: the model before any training.
    """

    version: int
    params: Params
    first: Params


@dataclass(frozen=True, slots=True)
class Kafal:
    """Train on few labels, ask for more where they help, and again.

    Attributes:
        cycle: rounds of training before each round of choosing, >= 1.
        query: what is labelled first: where peer and server disagree (``"ksas"``),
            where the server is unsure (``"entropy"``), or anything (``"random"``).
        loss: what peers minimise: balanced softmax with the server's advice
            (``"kcfu"``), without (``"balanced"``), or the task's own (``"plain"``).
        labelled: share of a peer's examples with a label at the start, in (0, 1].
        more: share of a peer's examples labelled per round of choosing, in (0, 1].
        restart: begin every cycle from the first model.
        server_lr: step along the mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the labelled examples per round, >= 1.
    """

    cycle: int = 5
    query: Literal["ksas", "entropy", "random"] = "ksas"
    loss: Literal["kcfu", "balanced", "plain"] = "kcfu"
    labelled: float = 0.1
    more: float = 0.05
    restart: bool = False
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["sum"]] = "sum"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts(1, cycle=self.cycle)
        for name, share in (("labelled", self.labelled), ("more", self.more)):
            if not 0 < share <= 1:
                raise ConfigError(f"{name} must be above 0 and at most 1, got {share}")
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Cycle:
        return Cycle(0, params, params)

    def chooses(self, version: int) -> bool:
        """Return whether round ``version``, counted from 0, is one of choosing."""
        return version % (self.cycle + 1) == self.cycle

    def work(self, state: Cycle, peer: PeerId) -> Work:
        hints = self._query() if self.chooses(state.version) else self._train(state)
        both = {**hints, "labelled": self.labelled, "memory": "kafal"}
        return Work(state.version, state.params, self.steps, self.epochs, hints=both)

    def _train(self, state: Cycle) -> Mapping[str, int | str]:
        began = state.version % (self.cycle + 1) if self.restart else state.version
        loss = "balanced" if self.loss == "kcfu" and not began else self.loss
        return {"do": "kafal-train", "loss": loss, "own": int(self.query == "ksas")}

    def _query(self) -> Mapping[str, float | str]:
        return {"do": "kafal-query", "query": self.query, "more": self.more}

    def expects(self, work: Work) -> Params:
        asked = work.hints.get("do") == "kafal-query"
        return {"picked": torch.zeros(1)} if asked else work.params

    def apply(self, state: Cycle, updates: Sequence[Update]) -> Cycle:
        trained = [u for u in updates if u.payload.keys() == state.params.keys()]
        params = state.params
        if self.restart and self.chooses(state.version):
            params = state.first
        elif trained:
            params = add(params, scaled(mean_of(trained), self.server_lr))
        return Cycle(state.version + 1, params, state.first)
