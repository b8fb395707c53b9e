"""A small task whose model is adapters of a frozen base, and a head that is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.e2e.normed import Normed


class Adapter(nn.Module):
    """A fixed linear layer and the adapter of it; only the adapter is in the state."""

    def __init__(self, width: int, out: int, rank: int) -> None:
        super().__init__()
        fixed = torch.linspace(-1, 1, width * out).view(out, width).sin()
        self.register_buffer("fixed", fixed, persistent=False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(width, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, out, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return x @ self.fixed.T + change


@dataclass(frozen=True)
class AdaptedTask(Normed):
    """One peer's share: a curve to fit; peers differ in what they add to it."""

    rank: int = 4

    def model(self) -> nn.Module:
        return nn.Sequential(Adapter(6, 5, self.rank), nn.Tanh(), nn.Linear(5, 1))

    def _data(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.examples, 6, generator=g)
        return x, (x[:, :1] * x[:, 1:2]).sin() + 0.2 * self.seed
