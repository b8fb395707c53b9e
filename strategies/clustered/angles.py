"""Cosines between directions, and the temperature: how much directions disagree.

Directions are rounded to multiples of 2^-26 of their length. Products of two such
numbers, and sums of them over two unit vectors, fit into the 53 bits of a float64, so
the matrix product below is exact, whatever its order: cosines and temperature have
the same bits on every machine.

Source (temperature):
    Zuziak et al., "One-Shot Clustering for Federated Learning", IEEE Big Data 2024,
    and "One-Shot Clustering for Federated Learning Under Clustering-Agnostic
    Assumption", 2025. https://arxiv.org/abs/2503.04231
    https://arxiv.org/abs/2509.01587
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum, sqrt

import torch
from torch import Tensor

GRAIN = float(1 << 26)  # steps into which a unit length is cut


@dataclass(frozen=True)
class Angles:
    """Directions of length 1, and what clusterers ask of them.

    Attributes:
        units: one direction a row, float64, shape (n, m); a zero one stays zero.
    """

    units: Tensor

    @classmethod
    def of(cls, directions: Sequence[Tensor]) -> "Angles":
        """Return the angles between ``directions``, n >= 1 tensors of shape (m,)."""
        return cls(torch.stack([unit(d) for d in directions]))

    @cached_property
    def similarity(self) -> Tensor:
        """Cosines, shape (n, n), symmetric, 1 on the diagonal.

        A direction of length 0 has cosine 0 with all others.
        """
        cosines = (self.units @ self.units.T).clamp(-1, 1)
        return cosines.fill_diagonal_(1.0)

    @cached_property
    def distance(self) -> Tensor:
        """One minus the cosines, in [0, 2], shape (n, n); 0 on the diagonal."""
        return 1.0 - self.similarity

    def some(self, rows: Sequence[int]) -> "Angles":
        """Return the angles between the directions ``rows`` alone."""
        return Angles(self.units[torch.tensor(rows, dtype=torch.int64)])

    def temperature(self) -> float:
        """Return |Γ| / sqrt(n (n - 1) 2²) in [0, 1]; 0 for fewer than two.

        Γ holds the distances; |Γ| is its Frobenius norm.
        """
        count = len(self.units)
        if count < 2:
            return 0.0
        squares = fsum(self.distance.square().flatten().tolist())
        return sqrt(squares / (4 * count * (count - 1)))


def unit(direction: Tensor) -> Tensor:
    """Return ``direction`` at length 1, in steps of 2^-26, float64, shape (m,)."""
    length = sqrt(fsum(direction.double().square().tolist()))
    if not length:
        return torch.zeros_like(direction, dtype=torch.float64)
    return torch.round(direction.double() / length * GRAIN) / GRAIN


def nearest(direction: Tensor, centroids: Sequence[Tensor]) -> int:
    """Return which of ``centroids`` has the largest cosine; the first of equals."""
    rows = Angles.of([direction, *centroids]).similarity[0, 1:]
    return int(rows.argmax())


def mean_direction(units: Tensor) -> Tensor:
    """Return the mean of ``units``, shape (n, m), as one direction, shape (m,)."""
    return unit(units.sum(dim=0))
