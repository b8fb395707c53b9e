"""Every strategy in the registry must reduce the loss on a convex toy task."""

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.rounds import run_rounds
from fedcore.strategy import Update
from fedcore.task import load
from sims.line import Line
from strategies import STRATEGIES
from tests.cases import TASKS

LINES = {f"peer{i}": Line(seed=i) for i in range(5)}
SETTINGS = {
    "fedadagrad": {"server_lr": 1.0},
    "fedadam": {"server_lr": 0.3},
    "fedavgm": {"server_lr": 0.3, "beta": 0.7},
    "fedkseed": {"lr": 0.05, "size": 16},
    "fedkseed-pro": {"lr": 0.05, "size": 16},
    "fedyogi": {"server_lr": 0.3},
    "mezo": {"lr": 0.05},
    "one-byte": {"lr": 0.05, "size": 16},
    "scaffold": {"local_lr": 0.1},
}
GRADUAL = ("fedadam", "fedspine", "fedyogi", "flora", "lego")
ROBUST = ("geometric-median", "krum", "median", "multi-krum", "trimmed-mean")


def loss(params):
    return sum(
        t.loss(load(t.model(), params), next(t.batches(0))).item()
        for t in LINES.values()
    )


def rules_of(name):
    return STRATEGIES[name](steps=3, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in TASKS])
def test_reduces_loss(name, start):
    rounds = 20 if name in GRADUAL else 10
    state = run_rounds(rules_of(name), SGD(lr=0.1), LINES, start, rounds)
    assert loss(state.params) < 0.05 * loss(start)


def lying(task, work, peer):
    """Send the opposite of what was learnt, ten times as long, with a great weight."""
    honest = SGD(lr=0.1)(task, work, peer)
    if peer != "peer3":
        return honest
    wrong = {name: -10 * t for name, t in honest.payload.items()}
    return Update(peer, work.version, wrong, 10_000, honest.metrics)


@pytest.mark.parametrize("name", ROBUST)
def test_robust_ones_learn_beside_a_liar(name, start):
    state = run_rounds(rules_of(name), lying, LINES, start, rounds=10)
    assert loss(state.params) < 0.05 * loss(start)


def test_and_fedavg_does_not(start):
    state = run_rounds(rules_of("fedavg"), lying, LINES, start, rounds=5)
    assert not loss(state.params) < loss(start)
    assert torch.isfinite(state.params["weight"]).all()
