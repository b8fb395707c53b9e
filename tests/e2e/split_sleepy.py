"""A task whose blocks take the time they say, on any machine, however busy."""

import time

import torch
from torch import Tensor, nn

from clients.tasks.dataset import Dataset


class Sleepy(nn.Module):
    """A layer of ``width`` outputs that takes ``takes_s`` seconds more."""

    def __init__(self, inputs: int, width: int, takes_s: float) -> None:
        super().__init__()
        self.layer, self.takes_s = nn.Linear(inputs, width), takes_s

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.takes_s)
        y: Tensor = self.layer(x)
        return y


def model() -> nn.Module:
    return nn.Sequential(
        Sleepy(16, 4096, 0.010),
        Sleepy(4096, 256, 0.020),
        Sleepy(256, 256, 0.030),
        Sleepy(256, 3, 0.030),
    )


def task() -> Dataset:
    x, y = torch.zeros(8, 16), torch.zeros(8, dtype=torch.int64)
    return Dataset("sleepy", (x, y), (x, y), model, batch_size=8)
