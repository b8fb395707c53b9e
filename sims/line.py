"""A toy task for tests and first steps: fit y = x @ w with a linear model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Line:
    """One peer's share; convex, tiny, no downloads."""

    seed: int
    examples: int = 64
    sign: float = 1.0
    epoch_steps: int = 1

    def model(self) -> nn.Module:
        return nn.Linear(4, 1, bias=False)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._data()
        while True:
            yield x, y

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        error: Tensor = model(x) - y
        return error.square().mean()

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            loss = self.loss(model, self._data()).item()
        return {"loss": loss, "examples": float(self.examples)}

    def _data(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.examples, 4, generator=g)
        return x, self.sign * x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
