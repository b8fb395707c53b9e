"""A small task with all that travels: several weights and running statistics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normed:
    """One peer's share: a curve to fit, with batch normalisation in the model."""

    seed: int
    examples: int = 24
    epoch_steps: int = 3

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
        )

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._data()
        order = torch.Generator().manual_seed(seed % 2**63)
        while True:
            for rows in torch.randperm(self.examples, generator=order).split(8):
                yield x[rows], y[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (model(x) - y).square().mean()

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            loss = self.loss(model.eval(), self._data()).item()
        return {"loss": loss, "examples": float(self.examples)}

    def _data(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.examples, 3, generator=g)
        return x, (x[:, :1] * x[:, 1:2]).sin() + 0.1 * self.seed
