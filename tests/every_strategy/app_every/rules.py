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
}
ROUNDS = {  # one for each form of message: what goes out, what comes back, what is kept
    "fedavg": 1,
    "fedprox": 1,
    "fedadam": 2,
    "scaffold": 2,
    "krum": 1,
    "ocfl": 2,
    "ifca": 1,
    "fedamd": 2,
    "fedspine": 2,
}


def rules_of(name):
    return STRATEGIES[name](steps=3, **SETTINGS.get(name, {}))


def task_of(index):
    return Line(seed=index)
