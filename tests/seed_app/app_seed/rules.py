"""What the nodes learn: a linear map of 64 KiB, by probes along 64 directions."""

from dataclasses import dataclass

import torch
from torch import nn

from clients.trainers.sgd import SGD
from fedcore.seeds import signs
from strategies.fedkseed import FedKSeed

NODES, ROUNDS = 2, 2
INPUTS, OUTPUTS = 256, 64
TRAINER = SGD()  # all of its settings come with the work
RULES = FedKSeed(size=64, steps=4, lr=1e-3)
START = signs(7, {"weight": torch.zeros(OUTPUTS, INPUTS)})  # no node has it beforehand


@dataclass(frozen=True)
class Map:
    """One node's share: fit y = 0 from its own inputs."""

    seed: int
    examples: int = 8
    epoch_steps: int = 1

    def model(self):
        return nn.Linear(INPUTS, OUTPUTS, bias=False)

    def batches(self, seed):
        while True:
            yield self._inputs()

    def loss(self, model, batch):
        return model(batch).square().mean()

    def evaluate(self, model):
        with torch.no_grad():
            loss = self.loss(model, self._inputs()).item()
        return {"loss": loss, "examples": float(self.examples)}

    def _inputs(self):
        return signs(self.seed, {"x": torch.zeros(self.examples, INPUTS)})["x"]
