"""Distances and inner products of updates, each taken as one long vector.

Everything here is a matrix product per block of columns, in float64. Running
statistics of normalisation layers are left out.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedcore.params import Params
from strategies.buffers import weights_of

BLOCK = 1 << 15  # columns at a time: what is held in float64 stays small


def squared_distances(trees: Sequence[Params]) -> Tensor:
    """Return |a - b|² for every two of ``trees``, float64, shape (n, n).

    Off by some 1e-16 of |a|² + |b|², whatever the others are. Symmetric bit for
    bit, and 0 on the diagonal.
    """
    products = torch.zeros(len(trees), len(trees), dtype=torch.float64)
    for block in _blocks(trees):
        products += block @ block.T
    norms = products.diagonal()
    upper = (norms[:, None] + norms - 2 * products).clamp_min(0).triu(1)
    return upper + upper.T


def inner_products(trees: Sequence[Params], origin: int) -> Tensor:
    """Return (a - o)·(b - o) for every two of ``trees``, float64, shape (n, n).

    ``o`` is tree number ``origin``; it is subtracted first, so that nothing is lost
    where all that matters is far from zero.
    """
    products = torch.zeros(len(trees), len(trees), dtype=torch.float64)
    for block in _blocks(trees):
        centred = block - block[origin]
        products += centred @ centred.T
    return products


def _blocks(trees: Sequence[Params]) -> Iterator[Tensor]:
    """Yield the columns of all ``trees``, float64, shape (n, <= BLOCK)."""
    for name in sorted(weights_of(trees[0])):
        rows = torch.stack([tree[name].detach().reshape(-1) for tree in trees])
        for block in torch.split(rows, BLOCK, dim=1):
            yield block.double()
