"""What the gateway must know of an update before it hands it on."""

from dataclasses import dataclass
from typing import Self

import torch

from fedcore.errors import ProtocolError
from fedcore.hierarchy.arena import FLOAT32, FLOAT64, INT64
from fedcore.ring import reach
from fedcore.strategy import Update

Shapes = dict[str, torch.Size]


@dataclass(frozen=True, slots=True)
class Seen:
    """An update that has been looked at.

    Attributes:
        kind: of number that holds all of it exactly.
        reaches: what no number of each tensor, times the weight, exceeds on the ring.
    """

    update: Update
    kind: int
    shapes: Shapes
    reaches: dict[str, int]

    @classmethod
    def of(cls, update: Update) -> Self:
        """Look at ``update``.

        Raises:
            ProtocolError: it cannot be summed.
        """
        tree, kind = update.payload, _kind(update)
        reaches = {name: _reach(t, update.examples) for name, t in tree.items()}
        return cls(update, kind, {n: t.shape for n, t in tree.items()}, reaches)


def _kind(update: Update) -> int:
    """Return the kind of number that holds all of ``update`` exactly.

    Raises:
        ProtocolError: the weight is below 1, or the payload is neither all sums nor
            all real numbers.
    """
    if update.examples < 1:
        raise ProtocolError(f"{update.peer}: weight {update.examples} is below 1")
    dtypes = {t.dtype for t in update.payload.values()}
    if dtypes == {torch.int64}:
        return INT64
    if not all(dtype.is_floating_point for dtype in dtypes):
        raise ProtocolError(f"{update.peer}: neither all sums nor all real numbers")
    return FLOAT64 if torch.float64 in dtypes else FLOAT32


def _reach(t: torch.Tensor, weight: int) -> int:
    if t.dtype != torch.int64:
        return reach(t, weight)
    low, high = (end.item() for end in torch.aminmax(t)) if t.numel() else (0, 0)
    return int(max(abs(low), abs(high)))
