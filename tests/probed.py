"""Tasks whose slopes are known by hand, for strategies that only probe the loss."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.e2e.normed import Normed


class Bowl(nn.Module):
    """Four weights in two tensors; nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(3))
        self.b = nn.Parameter(torch.zeros(1))

    def line(self) -> Tensor:
        return torch.cat([self.a, self.b])


@dataclass(frozen=True)
class Quadratic:
    """The loss is Σ h w² / 2 + Σ s w: two probes tell its slope exactly."""

    curve: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # h
    slope: tuple[float, ...] = (0.0, 1.0, -2.0, 0.5)  # s
    examples: int = 1
    epoch_steps: int = 1
    factors: tuple[float, ...] = (1.0,)  # of the loss, batch after batch

    def model(self) -> nn.Module:
        return Bowl()

    def batches(self, seed: int) -> Iterator[float]:
        while True:
            yield from self.factors

    def loss(self, model: nn.Module, batch: float) -> Tensor:
        w = model.line()
        h, s = torch.tensor(self.curve), torch.tensor(self.slope)
        return batch * (h * w * w / 2 + s * w).sum()

    def gradient(self, w: Tensor) -> Tensor:
        return torch.tensor(self.curve) * w + torch.tensor(self.slope)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {"loss": float(self.loss(model, 1.0)), "examples": 1.0}


START = {"a": torch.tensor([1.0, 2.0, -1.0]), "b": torch.tensor([0.5])}


def line_of(params) -> Tensor:
    return torch.cat([params["a"], params["b"]])


@dataclass(frozen=True)
class Half(Normed):
    """The same in bfloat16."""

    def model(self) -> nn.Module:
        return super().model().bfloat16()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (model(x.bfloat16()).float() - y).square().mean()
