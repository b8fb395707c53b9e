"""Models to split, and the plain loop that split training must match bit for bit."""

from collections import OrderedDict
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.split.cut import Cut, blocks_of
from clients.tasks.dataset import Dataset, Shard
from clients.trainers.method import reproducible
from fedcore.seeds import seed_of
from fedcore.strategy import Work
from fedcore.task import load, params_of

CLASSES = 3


class Tall(nn.Module):
    """No Sequential, but it says what its blocks are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(6, 8), nn.Linear(8, 8)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def blocks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("embed", "mix", "norm", "out")}

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.mix(self.embed(x))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def drops() -> nn.Module:
    """Draws on both sides of every cut, and a block that works in place."""
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.Dropout(0.5),
        nn.ReLU(inplace=True),
        nn.Sequential(OrderedDict(wide=nn.Linear(16, 16), drop=nn.Dropout(0.3))),
        nn.Dropout(0.2),
        nn.Linear(16, CLASSES),
    )


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(4 * 1 * 2, CLASSES),
    )


MODELS = {"conv": conv, "drops": drops, "mlp": mlp, "tall": Tall}


@cache
def task_of(model: str, seed: int = 0, rows: int = 22) -> Shard:
    """Return a small task; its last batch of an epoch is smaller than the others."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=g)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.3).long()
    examples = (x, y)
    data = Dataset(model, examples, examples, MODELS[model], batch_size=8)
    return Shard(data, np.arange(rows))


@cache
def start_of(model: str) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return dict(params_of(MODELS[model]()))


def unsplit(task, start, steps, trainer, peer="client", version=0):
    """Return weights and mean loss of plain training of the whole model."""
    with reproducible():
        model = load(task.model(), start).train()
        now = [0]
        for place, block in enumerate(blocks_of(model).values()):
            block.register_forward_pre_hook(_seeding(peer, version, now, place))
        weights, rule = list(model.parameters()), trainer.rule(Work(version, {}))
        batches = task.batches(seed_of("batches", peer, version))
        total = 0.0
        for step in range(steps):
            now[0] = step
            x, y = next(batches)
            loss = cross_entropy(model(x), y)
            grads = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                rule.step(weights, list(grads))
            total += float(loss.detach())
        return params_of(model), total / steps


def _seeding(peer, version, now, place):
    def seed(module: nn.Module, inputs: object) -> None:
        torch.default_generator.manual_seed(
            seed_of("draws", peer, version, now[0], place)
        )

    return seed


def cuts(model: str):
    """Return every front of ``model`` without a head and with one, and every head."""
    total = len(blocks_of(MODELS[model]()))
    fronts = [Cut(at, head) for head in (0, 1) for at in range(total + 1 - head)]
    return fronts + [Cut(1, head) for head in range(2, total)]
