"""Where the weights of a model lie in its one long vector.

The vector is the named tensors in sorted name order, row by row. A *piece* is what a
span of the vector holds of one tensor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.pool.stream import Span, spans


@dataclass(frozen=True, slots=True)
class Piece:
    """Weights ``lo .. hi`` of a span: tensor ``name``, from flat place ``at``."""

    name: str
    lo: int
    hi: int
    at: int

    def of(self, lines: Mapping[str, Tensor]) -> Tensor:
        """Return the view of these weights in flat tensors."""
        return lines[self.name][self.at : self.at + self.hi - self.lo]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and lengths of the tensors of one vector, sorted, and its device."""

    lengths: tuple[tuple[str, int], ...]
    device: torch.device

    @classmethod
    def of(cls, tree: Params) -> "Layout":
        """Return the layout of ``tree``.

        Raises:
            ConfigError: a tensor is not of real floating numbers, or the tensors are
                not all on one device.
        """
        for name, t in tree.items():
            if not t.is_floating_point():
                raise ConfigError(f"{name!r} is {t.dtype}: directions move reals")
        devices = {t.device for t in tree.values()} or {torch.device("cpu")}
        if len(devices) > 1:
            raise ConfigError(f"weights on {len(devices)} devices: move them to one")
        lengths = tuple((name, tree[name].numel()) for name in sorted(tree))
        return cls(lengths, devices.pop())

    @property
    def numel(self) -> int:
        """How many weights there are."""
        return sum(length for _, length in self.lengths)

    def walk(self) -> Iterator[tuple[Span, Sequence[Piece]]]:
        """Cut the vector into spans, each with its pieces, in order."""
        left = iter(self.lengths)
        name, length, at = "", 0, 0
        for span in spans(0, self.numel, self.device):
            pieces, lo, size = [], 0, span.hi - span.lo
            while lo < size:
                if at == length:
                    (name, length), at = next(left), 0
                    continue
                hi = min(size, lo + length - at)
                pieces.append(Piece(name, lo, hi, at))
                lo, at = hi, at + hi - lo
            yield span, pieces


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that weights of ``dtype`` are summed in: float32 or more."""
    return torch.promote_types(dtype, torch.float32)


def blank(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a new tensor of the shape and device of ``like``, contiguous, not filled.

    In the processor's memory NumPy allocates it: large arrays are then made of huge
    pages, and the first write to 20 M weights takes a quarter of the time.
    """
    if like.device.type != "cpu" or not like.numel():
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    room = np.empty(like.numel() * dtype.itemsize, np.uint8)
    return torch.from_numpy(room).view(dtype).view(like.shape)


def lines_of(tree: Params) -> Mapping[str, Tensor]:
    """Return the tensors of ``tree`` as lines; views where they are contiguous."""
    return {name: t.detach().reshape(-1) for name, t in tree.items()}
