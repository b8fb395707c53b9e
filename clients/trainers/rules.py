"""How weights move along gradients, in place and without ``torch.optim``.

Importing the first optimizer of torch costs 1.6 s, more than many a whole run.
The rules here are the same arithmetic, and tests hold them to the same bits. A
rule lives for one local training: its memory starts empty.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


class Rule(Protocol):
    """One optimizer, with its memory."""

    @property
    def direct(self) -> tuple[float, float] | None:
        """``(keep, rate)`` if a step is just ``w = keep * w - rate * grad``."""
        ...

    def step(self, weights: Tensors, grads: Tensors) -> None:
        """Move ``weights`` in place; may overwrite ``grads``."""
        ...


@dataclass(slots=True)
class Momentum:
    """SGD with heavy-ball or Nesterov momentum, and L2 weight decay.

    Attributes:
        rate: step size of this round, > 0.
        momentum: share of the last move that is kept, in [0, 1); 0 keeps nothing.
        nesterov: look ahead along the kept move.
        weight_decay: multiple of the weights added to the gradient, >= 0.
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    kept: list[Tensor] = field(default_factory=list)

    @property
    def direct(self) -> tuple[float, float] | None:
        if self.momentum:
            return None
        return 1.0 - self.rate * self.weight_decay, self.rate

    def step(self, weights: Tensors, grads: Tensors) -> None:
        if self.weight_decay:
            torch._foreach_add_(grads, weights, alpha=self.weight_decay)
        move = self._with_momentum(grads) if self.momentum else grads
        torch._foreach_add_(weights, move, alpha=-self.rate)

    def _with_momentum(self, grads: Tensors) -> Tensors:
        if self.kept:
            torch._foreach_mul_(self.kept, self.momentum)
            torch._foreach_add_(self.kept, grads)
        else:
            self.kept = [g.clone() for g in grads]
        if not self.nesterov:
            return self.kept
        torch._foreach_add_(grads, self.kept, alpha=self.momentum)
        return grads


@dataclass(slots=True)
class Adam:
    """Adam with decoupled weight decay.

    Attributes:
        rate: step size of this round, > 0.
        beta1: share of the running mean that is kept, in [0, 1).
        beta2: share of the running mean of squares that is kept, in [0, 1).
        eps: added to the root, > 0.
        weight_decay: share of the weights lost per step and unit of ``rate``, >= 0.
    """

    rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    steps: int = 0
    mean: list[Tensor] = field(default_factory=list)
    square: list[Tensor] = field(default_factory=list)

    @property
    def direct(self) -> tuple[float, float] | None:
        return None

    def step(self, weights: Tensors, grads: Tensors) -> None:
        if not self.steps:
            self.mean = [torch.zeros_like(w) for w in weights]
            self.square = [torch.zeros_like(w) for w in weights]
        self.steps += 1
        if self.weight_decay:
            torch._foreach_mul_(weights, 1.0 - self.rate * self.weight_decay)
        torch._foreach_lerp_(self.mean, grads, 1.0 - self.beta1)
        torch._foreach_mul_(self.square, self.beta2)
        torch._foreach_addcmul_(self.square, grads, grads, 1.0 - self.beta2)
        root = torch._foreach_sqrt(self.square)
        torch._foreach_div_(root, (1.0 - self.beta2**self.steps) ** 0.5)
        torch._foreach_add_(root, self.eps)
        stride = -self.rate / (1.0 - self.beta1**self.steps)
        torch._foreach_addcdiv_(weights, self.mean, root, stride)
