"""Means of middle ranks, coordinate by coordinate, over a few long vectors.

Sorting n numbers a million times over is slow when each sort is its own loop. A
sorting network is a fixed list of compare-and-swaps, so each of them runs over
thousands of coordinates at once; those that no wanted rank depends on are left
out, and coordinates go in blocks that stay in the cache.

Source:
    Batcher, "Sorting Networks and Their Applications", AFIPS 1968 (odd-even merge
    sort), as Knuth, "The Art of Computer Programming" vol. 3, algorithm 5.2.2M.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

BLOCK = 8192  # coordinates at a time: 32 rows of them are 1 MB


def middle_mean(rows: Sequence[Tensor], cut: int) -> Tensor:
    """Return the mean of each coordinate without its ``cut`` least and greatest.

    The result does not depend on the order of ``rows``, bit for bit: values are
    added by rank, in float64.

    Args:
        rows: n >= 1 tensors of one shape, finite.
        cut: values left out at each end, 0 <= 2 * cut < n.

    Returns:
        A float32 tensor shaped as each row; every coordinate lies between the
        least and the greatest of the values kept.
    """
    flat = torch.stack([row.detach().reshape(-1).float() for row in rows])  # (n, d)
    blocks = [_block_mean(block, cut) for block in torch.split(flat, BLOCK, dim=1)]
    return torch.cat(blocks).view(rows[0].shape)


def _block_mean(block: Tensor, cut: int) -> Tensor:
    count = len(block)
    lines = list(block + 0.0)  # -0.0 becomes 0.0: the two rank alike
    for low, high in network(count, cut):
        a, b = lines[low], lines[high]
        lines[low], lines[high] = torch.minimum(a, b), torch.maximum(a, b)
    kept = lines[cut : count - cut]
    total: Tensor = kept[0].double()
    for line in kept[1:]:
        total += line
    return total.div_(len(kept)).float()


@cache
def network(count: int, cut: int) -> tuple[tuple[int, int], ...]:
    """Return the compare-and-swaps that bring ranks ``cut`` to ``count - cut`` home."""
    wanted = set(range(cut, count - cut))
    kept: list[tuple[int, int]] = []
    for low, high in reversed(list(_merge_sort(count))):
        if low in wanted or high in wanted:
            wanted |= {low, high}
            kept.append((low, high))
    return tuple(reversed(kept))


def _merge_sort(count: int) -> Iterator[tuple[int, int]]:
    top = 1 << (count - 1).bit_length() >> 1
    size = top
    while size:
        reach, phase, gap = top, 0, size
        while True:
            for low in range(count - gap):
                if low & size == phase:
                    yield low, low + gap
            if reach == size:
                break
            gap, reach, phase = reach - size, reach >> 1, size
        size >>= 1
