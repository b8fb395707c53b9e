"""Distances between updates, each taken as one long vector."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.params import Params
from strategies.buffers import weights_of

BLOCK = 1 << 15  # columns at a time: what is held in float64 stays small


def squared_distances(trees: Sequence[Params]) -> Tensor:
    """Return |a - b|² for every two of ``trees``, float64, shape (n, n).

    One matrix product per block of columns: |a - b|² = |a|² + |b|² - 2 a·b, off by
    some 1e-16 of |a|² + |b|². Symmetric bit for bit, and 0 on the diagonal. Running
    statistics of normalisation layers are left out.
    """
    count = len(trees)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for name in sorted(weights_of(trees[0])):
        rows = torch.stack([tree[name].detach().reshape(-1) for tree in trees])
        for block in torch.split(rows, BLOCK, dim=1):
            wide = block.double()
            gram += wide @ wide.T
    norms = gram.diagonal()
    upper = (norms[:, None] + norms - 2 * gram).clamp_min(0).triu(1)
    return upper + upper.T
