"""The duty ``fomaml``, by hand on one weight, and what it is good for."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from clients.trainers.adamw import AdamW
from clients.trainers.sgd import SGD
from fedcore.errors import ProtocolError
from fedcore.strategy import Work
from fedcore.task import load


@dataclass(frozen=True)
class Points:
    """Bring one weight to goals that come in turn: loss (w - goal)²."""

    goals: tuple[float, ...]
    examples: int = 4

    @property
    def epoch_steps(self):
        return len(self.goals)

    def model(self):
        return nn.Linear(1, 1, bias=False)

    def batches(self, seed):
        while True:
            yield from (torch.tensor(goal) for goal in self.goals)

    def loss(self, model, batch):
        return (model.weight - batch).square().mean()


def run(goals, trainer=None, steps=0, start=0.0, **hints):
    params = {"weight": torch.tensor([[start]])}
    work = Work(0, params, steps, hints={"do": "fomaml", **hints})
    return (trainer or SGD(lr=0.1))(Points(goals), work, "a")


def test_one_outer_step_by_hand():
    """Adapt 0 -> 0.25 * 2 * 1 = 0.5; query gradient 2 (0.5 - 3) = -5; step 0.1."""
    update = run((1.0, 3.0), inner_lr=0.25)
    assert update.payload["weight"].item() == pytest.approx(0.5)
    assert update.metrics == {"loss": pytest.approx(6.25), "steps": 2.0}


def test_two_inner_steps_and_two_groups_by_hand():
    """Goals 1, 1, 1 twice, α = 1/4: each inner step halves the way to 1.

    From 0: 0.5, 0.75; gradient -0.5; w = 0.05. From 0.05: gradient 2 * 0.95 / 4.
    """
    update = run((1.0,) * 6, inner_lr=0.25, inner_steps=2)
    assert update.payload["weight"].item() == pytest.approx(0.05 + 0.0475)


def test_the_inner_step_is_the_trainers_own_if_not_sent():
    """Adapt 0 -> 0.1 * 2 = 0.2; gradient 2 (0.2 - 1) = -1.6."""
    assert run((1.0, 1.0)).payload["weight"].item() == pytest.approx(0.16)


@pytest.mark.parametrize(("steps", "groups"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_steps_count_batches_and_the_last_group_is_filled(steps, groups):
    """A group turns the distance d to the goal into d * (1 - 0.2 * 0.8)."""
    update = run((1.0,), steps=steps)
    assert update.metrics["steps"] == steps
    left = 1 - update.payload["weight"].item()
    assert left == pytest.approx(0.84**groups)


def test_the_trainers_rule_walks_the_outer_weights():
    """Adam's first step is its rate, whatever the gradient."""
    update = run((1.0, 3.0), AdamW(lr=0.01, weight_decay=0.0), inner_lr=0.25)
    assert update.payload["weight"].item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    "hints",
    [
        {"inner_lr": 0.0},
        {"inner_lr": -1.0},
        {"inner_lr": math.inf},
        {"inner_lr": math.nan},
        {"inner_lr": "fast"},
        {"inner_steps": 0},
        {"inner_steps": 1.5},
        {"inner_steps": 10**6},
    ],
)
def test_hints_out_of_range_are_refused(hints):
    with pytest.raises(ProtocolError, match="must be"):
        run((1.0, 1.0), **hints)


@dataclass(frozen=True)
class Lines:
    """Fit y = slope * x on ten points; one slope a peer, and two inputs."""

    slope: float
    examples: int = 8
    epoch_steps: int = 2

    def model(self):
        return nn.Linear(2, 1, bias=False)

    def batches(self, seed):
        g = torch.Generator().manual_seed(seed % 2**63)
        while True:
            x = torch.randn(4, 2, generator=g) * torch.tensor([2.0, 1.0])
            yield x, x @ torch.tensor([[self.slope], [2.0]])

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()


def adapted_loss(params, slope):
    """Return the loss after three plain steps on one peer's data."""
    task = Lines(slope)
    moved = SGD(lr=0.05)(task, Work(9, params, steps=3), "test").payload
    net = load(task.model(), {k: t + moved[k] for k, t in params.items()})
    return float(task.loss(net, next(task.batches(77))).detach())


def test_it_finds_the_part_that_adaptation_cannot():
    """Adaptation finds a slope in a step or two; what all share it must start with."""
    params = {"weight": torch.zeros(1, 2)}
    slopes = (-1.0, 1.0)
    cold = sum(adapted_loss(params, s) for s in slopes)
    hints = {"do": "fomaml", "inner_lr": 0.05, "inner_steps": 2}
    for version in range(60):
        for slope in slopes:
            work = Work(version, params, steps=3, hints=hints)
            moved = SGD(lr=0.02)(Lines(slope), work, "a").payload
            params = {k: t + moved[k] for k, t in params.items()}
    assert params["weight"][0, 1].item() == pytest.approx(2.0, abs=0.4)
    assert sum(adapted_loss(params, s) for s in slopes) < 0.2 * cold
