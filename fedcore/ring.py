"""Fixed-point integers mod 2^64: sums that are exact and do not depend on order.

A real number x is carried as round(x * 2^32) in int64. Sums of such integers
wrap mod 2^64 and so commute and associate exactly: on any machine, in any order,
in any tree, masked or shared, the bits are the same.
"""

import torch
from torch import Tensor

from fedcore.errors import ProtocolError

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
LIMIT = float(1 << (62 - FRACTION_BITS))  # |weight * x| must stay below this


def encode(x: Tensor, weight: int = 1) -> Tensor:
    """Return ``weight * x`` as ring elements, int64, off by at most 2^-33.

    Raises:
        ProtocolError: a product is not finite, or not below ``LIMIT`` in size.
    """
    real = x.double() * float(weight)
    if real.numel() and not bool(real.abs().max() < LIMIT):  # NaN fails too
        raise ProtocolError(f"a value times its weight {weight} leaves ±{LIMIT:.0f}")
    return (real * ONE).round_().to(torch.int64)


def decode(total: Tensor, weight: int = 1) -> Tensor:
    """Return ``total / weight`` as float64."""
    return total.double() / (ONE * float(weight))
