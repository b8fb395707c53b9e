import torch

from clients.trainers.sgd import SGD
from sims.line import Line
from strategies import STRATEGIES

NODES = 3
TRAINER = SGD(lr=0.05)
START = {"weight": torch.zeros(1, 4)}
SETTINGS = {
    "scaffold": {"local_lr": TRAINER.lr},
    "krum": {"attackers": 0},
    "multi-krum": {"attackers": 0},
}
REMEMBER = ("scaffold", "fedavgm", "fedadagrad", "fedadam", "fedyogi")


def rules_of(name):
    return STRATEGIES[name](steps=3, **SETTINGS.get(name, {}))


def rounds_of(name):
    """Return 2 where the state of the first round enters the second."""
    return 2 if name in REMEMBER else 1


def task_of(index):
    return Line(seed=index)
