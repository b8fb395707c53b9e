"""Fixed-point integers mod 2^64: sums that are exact and do not depend on order.

A real number x is carried as round(x * 2^32), ties to even, in int64. Sums of such
integers wrap mod 2^64 and so commute and associate exactly: on any machine, in any
order, in any tree, masked or shared, the bits are the same.

Range: one number times its weight must stay below 2^30 in size (``LIMIT``), and a
sum below 2^31. Error: each term is off by at most 2^-33, so a mean over updates of
weight 1 or more is off by at most 2^-33 too. (A float64 times its weight is first
rounded to 53 bits; products of shorter types are exact for weights below 2^29.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedcore.errors import ProtocolError

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
LIMIT = float(1 << (62 - FRACTION_BITS))  # |weight * x| must stay below this
BLOCK = 1 << 16  # numbers worked on at once: a block and its copies stay in cache


def encode(x: Tensor, weight: int = 1) -> Tensor:
    """Return ``weight * x`` as ring elements, int64, of the shape of ``x``.

    Raises:
        ProtocolError: a product is not finite, or not below ``LIMIT`` in size.
    """
    reach(x, weight)
    total = torch.zeros(x.shape, dtype=torch.int64)
    add_encoded(total, x, weight)
    return total


def decode(
    total: Tensor, weight: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return ``total / weight`` as ``dtype``, of the shape of ``total``."""
    real = torch.empty(total.shape, dtype=dtype)
    for block, term in zip(_blocks(real), _blocks(total), strict=True):
        block.copy_(term.double().div_(ONE * float(weight)))
    return real


def reach(x: Tensor, weight: int = 1) -> int:
    """Return an integer that no element of ``encode(x, weight)`` exceeds in size.

    Raises:
        ProtocolError: as ``encode``, for the same arguments.
    """
    if not x.numel():
        return 0
    low, high = torch.aminmax(x)
    top = max(abs(low.item()), abs(high.item())) * float(weight)
    if not top < LIMIT:  # NaN fails too
        raise ProtocolError(f"a number times its weight {weight} leaves ±{LIMIT:.0f}")
    return int(top * ONE) + 1


def add_encoded(total: Tensor, x: Tensor, weight: int = 1) -> None:
    """Add ``encode(x, weight)`` to ``total`` in place, with no copy as large as it.

    ``total`` is contiguous, int64, of the shape of ``x``; ``x`` is within ``reach``.
    """
    scale = float(weight) * ONE
    real = torch.empty(min(BLOCK, x.numel()), dtype=torch.float64)
    whole = torch.empty(real.shape, dtype=torch.int64)
    for block, term in zip(_blocks(total), _blocks(x), strict=True):
        count = term.numel()
        scaled = real[:count].copy_(term).mul_(scale).round_()
        block.add_(whole[:count].copy_(scaled))


def add_rows(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """Add ``encode(row, weight)`` of every row to ``total`` in place.

    ``total`` is int64 (d,), ``rows`` (n, d) and within ``reach``, ``weights`` float64
    (n,). Cheaper than ``add_encoded`` row by row where rows are short.
    """
    height = max(1, BLOCK // rows.shape[1])
    scales = torch.split((weights * ONE).unsqueeze(1), height)  # (n, 1)
    for block, scale in zip(torch.split(rows, height), scales, strict=True):
        total += (block.double() * scale).round_().to(torch.int64).sum(0)


def _blocks(t: Tensor) -> Sequence[Tensor]:
    line = t.reshape(-1)
    return (line,) if line.numel() <= BLOCK else torch.split(line, BLOCK)
