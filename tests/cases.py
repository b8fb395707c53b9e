"""What each strategy is tested with: settings, and a task that it can learn.

A new strategy needs an entry only where its defaults do not suit a tiny problem.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.trainers.sgd import SGD
from fedcore.params import digest
from fedcore.strategy import Update
from strategies import STRATEGIES
from strategies.clustered.clusterers import Agglomerative
from tests.e2e.normed import Normed

TRAINER = SGD(lr=0.05)

SETTINGS = {  # clusters and choices come about in the first rounds
    "adaptive": {
        "inner": "fomaml",
        "trigger": "round:1",
        "clusterer": Agglomerative(clusters=2),
    },
    "briggs": {"rounds": 1, "threshold": 0.01},
    "fedkseed": {"size": 16, "lr": 0.01, "rotate": 2, "directions": 2},
    "fedkseed-pro": {"size": 16, "lr": 0.01, "halve": 1},
    "ferret": {"budget": 12, "rotate": 2},
    "kafal": {"cycle": 1, "labelled": 1 / 3, "more": 1 / 3},  # all rounds in three
    "knfu": {"public": 6, "classes": 3},
    "mezo": {"lr": 0.01, "steps": 4, "directions": 2},
    "one-byte": {"size": 16, "lr": 0.01, "steps": 4, "rotate": 2},
    "sattler": {"cooldown": 1, "still": 1e3, "moving": 1e-3, "gamma": 0.0},
    "scaffold": {"local_lr": TRAINER.lr},
}


@dataclass(frozen=True)
class Copied(Normed):
    """The same examples for everybody, whatever the seed."""

    def _data(self) -> tuple[Tensor, Tensor]:
        return Normed(seed=0)._data()


TASKS = {}  # name -> class of its tasks, made with seed=i; Normed if not named


def rules_of(name, **settings):
    """Return the strategy ``name`` with what it needs here."""
    return STRATEGIES[name](**{**SETTINGS.get(name, {}), **settings})


def task_of(name, index):
    """Return the task of peer ``index`` for strategy ``name``."""
    return TASKS.get(name, Normed)(seed=index)


@dataclass(frozen=True)
class Classed:
    """One peer's share of three classes; the model has running statistics, too."""

    seed: int
    examples: int = 24
    epoch_steps: int = 3
    rows: tuple[int, ...] | None = None  # of the 24, if not all

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)
        )

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._data()
        order = torch.Generator().manual_seed(seed % 2**63)
        while True:
            for rows in torch.randperm(self.examples, generator=order).split(8):
                yield x[rows], y[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return cross_entropy(model(x), y)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            loss = self.loss(model.eval(), self._data()).item()
        return {"loss": loss, "examples": float(self.examples)}

    def only(self, rows) -> "Classed":
        steps = -(-len(rows) // 8)
        return replace(self, examples=len(rows), epoch_steps=steps, rows=tuple(rows))

    def inputs(self, rows) -> Tensor:
        return self._data()[0][rows]

    def targets(self, rows) -> Tensor:
        return self._data()[1][rows]

    def public(self, count) -> Tensor:
        return torch.linspace(-1, 1, 3 * count).view(count, 3)

    def _data(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(24, 3, generator=g)
        y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.2 * self.seed).long()
        return (x, y) if self.rows is None else (x[[*self.rows]], y[[*self.rows]])


TASKS["fedld"] = Classed  # its term is for cross entropy
TASKS |= dict.fromkeys(("gradient-coding", "m-sgc", "sr-sgc"), Copied)
TASKS |= {"kafal": Classed, "knfu": Classed}  # they ask for rows, and for classes


def digest_of(state):
    """Return the bits of what a run came to: the model, and what peers told of own."""
    told = getattr(state, "answers", {})
    flat = {f"{peer}/{k}": t for peer, tree in told.items() for k, t in tree.items()}
    return digest({**state.params, **flat})


def filled(like, numbers):
    """Return ``numbers`` shaped and typed as ``like``; without signs if it has none."""
    values = torch.tensor(numbers).view(like.shape)
    return (values.abs() if like.dtype == torch.uint8 else values).to(like.dtype)


def answer(rules, state, peer, numbers, examples=1, steps=1.0):
    """Return an update of ``peer`` with the form that ``rules`` expect of it.

    ``numbers`` are put in again and again until every tensor is full. What a peer has
    to tell beside its tensors (a choice, an arm) it tells, as ``work`` asks.
    """
    work = rules.work(state, peer)
    flow = chain.from_iterable(repeat(numbers))
    payload = {
        name: filled(t, list(islice(flow, t.numel())))
        for name, t in rules.expects(work).items()
    }
    told = {"steps": float(steps), "arm": float(work.hints.get("arm", 0))}
    told["choice"] = float(examples % int(work.hints.get("choices", 1)))
    return Update(peer, work.version, payload, examples, told)
