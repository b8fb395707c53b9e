"""Long vectors cut down to a few numbers that keep the angles between them.

A count sketch adds every number, with a random sign, into one of ``size`` buckets.
Which bucket and which sign follows from a seed and the number's place alone, so all
who share the seed make the same sketch, at one pass over the vector. n peers are then
remembered in n * size numbers, however large the model is.

For vectors x and y with inner product x·y, that of their sketches has mean x·y and
variance at most (|x|²|y|² + (x·y)²) / size over the seeds. With 256 buckets a cosine
of 0 is known to about ±0.06, and large cosines better: the deviation of a sketched
cosine c is close to (1 - c²) / 16 where no few numbers outweigh all others.

Sources:
    Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data Streams",
    ICALP 2002 (the sketch). Weinberger et al., "Feature Hashing for Large Scale
    Multitask Learning", ICML 2009, lemma 2 (mean and variance of inner products).
    https://arxiv.org/abs/0902.2206

Departures: running statistics of normalisation layers are left out; no gradient moves
them, and they would drown the rest. A vector of no more than ``size`` numbers is kept
as it is. Sums are taken in float64 and always in the same order, so that a sketch has
the same bits on every machine.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.seeds import words
from strategies.buffers import weights_of

BLOCK = 1 << 16  # numbers whose buckets are drawn at once: half a megabyte of words


def sketches(trees: Sequence[Params], size: int, seed: int) -> list[Tensor]:
    """Return the sketch of each of ``trees``, taken as one long vector.

    Args:
        trees: at least one, all of one form.
        size: buckets, >= 1; 0 keeps whole vectors.
        seed: names buckets and signs.

    Returns:
        float64 tensors of shape (size,), or (d,) where d weights are kept whole.
    """
    rows = [weights_of(tree) for tree in trees]
    if not 0 < size < sum(t.numel() for t in rows[0].values()):
        return [_whole(row) for row in rows]
    totals = np.zeros((len(rows), size))
    for name in sorted(rows[0]):
        parts = [row[name].detach().reshape(-1).double().numpy() for row in rows]
        for start in range(0, parts[0].size, BLOCK):
            block = [part[start : start + BLOCK] for part in parts]
            drawn = words(block[0].size, "sketch", seed, name, start)
            bucket = ((drawn >> np.uint64(1)) % np.uint64(size)).astype(np.int64)
            sign = 1.0 - 2.0 * (drawn & np.uint64(1))
            for total, part in zip(totals, block, strict=True):
                total += np.bincount(bucket, weights=part * sign, minlength=size)
    return list(torch.from_numpy(totals))


def _whole(tree: Params) -> Tensor:
    return torch.cat([tree[k].detach().reshape(-1).double() for k in sorted(tree)])
