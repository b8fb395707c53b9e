"""Many updates as one: the exact weighted sum that every "sum" strategy folds.

Because the sum is taken on the ring, ``mean_of(updates)`` has the same bits
whether the updates come one by one, in any order, or merged by a tree of
aggregators, a secure sum or an all-reduce.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.ring import decode, encode
from fedcore.strategy import Update


def on_ring(update: Update) -> Params:
    """Return ``examples * payload`` as ring elements; ring payloads pass unchanged."""
    return {
        name: t if t.dtype == torch.int64 else encode(t, update.examples)
        for name, t in update.payload.items()
    }


def merged(updates: Sequence[Update], peer: str = "sum") -> Update:
    """Return one update that stands for all of ``updates``, exactly.

    Raises:
        ProtocolError: the sum would leave the ring's range.
    """
    total: dict[str, Tensor] = {}
    for update in updates:
        for name, t in on_ring(update).items():
            total[name] = t if name not in total else _sum(total[name], t)
    examples = sum(u.examples for u in updates)
    return Update(peer, max(u.version for u in updates), total, examples)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a + b``; two of one sign whose sum has the other have overflowed."""
    c = a + b
    if bool((((a ^ c) & (b ^ c)) < 0).any()):
        raise ProtocolError("the sum of the updates leaves the ring's range")
    return c


def mean_of(updates: Sequence[Update]) -> Params:
    """Return the mean payload weighted by examples, float32, the same in any order."""
    total = merged(updates)
    return {
        name: decode(t, total.examples).float() for name, t in total.payload.items()
    }
