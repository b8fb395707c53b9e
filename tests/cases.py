"""What each strategy is tested with: settings, and a task that it can learn.

A new strategy needs an entry only where its defaults do not suit a tiny problem.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.trainers.sgd import SGD
from fedcore.strategy import Update
from strategies import STRATEGIES
from tests.e2e.normed import Normed

TRAINER = SGD(lr=0.05)

SETTINGS = {
    "scaffold": {"local_lr": TRAINER.lr},
}
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

    def _data(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.examples, 3, generator=g)
        return x, (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.2 * self.seed).long()


def answer(rules, state, peer, numbers, examples=1, steps=1.0):
    """Return an update of ``peer`` with the form that ``rules`` expect of it.

    ``numbers`` are put in again and again until every tensor is full.
    """
    work = rules.work(state, peer)
    flow = chain.from_iterable(repeat(numbers))
    payload = {
        name: torch.tensor(list(islice(flow, t.numel())), dtype=t.dtype).view(t.shape)
        for name, t in rules.expects(work).items()
    }
    return Update(peer, work.version, payload, examples, {"steps": float(steps)})
