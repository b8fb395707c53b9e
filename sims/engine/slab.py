"""Tensors in memory that two processes share, with no file left behind.

A slab is an anonymous file (Linux: ``memfd_create``; elsewhere a temporary file
without a name). It goes when the last process that holds it goes, kill -9
included: nothing stays in ``/dev/shm``. Either side may make it longer; the
other maps it anew when it hears of the new size.
"""

import mmap
import os
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile

import torch
from torch import Tensor

from fedcore.params import Params

ALIGN_BYTES = 64  # a cache line; also makes every dtype's view legal
FIRST_BYTES = 1 << 20

Form = Sequence[tuple[str, str, Sequence[int]]]  # name, dtype and shape of each tensor


class Slab:
    """A growing block of bytes, shared with the processes forked after it was made."""

    def __init__(self) -> None:
        self._fd = _anonymous_fd()
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self.size = 0
        self.grow(FIRST_BYTES)

    def grow(self, size: int) -> None:
        """Make room for ``size`` bytes; what is there stays."""
        if size > self.size:
            size = max(size, 2 * self.size)
            os.ftruncate(self._fd, size)
            self.map(size)

    def map(self, size: int) -> None:
        """See all ``size`` bytes, after the other side has grown the slab."""
        if size > self.size:
            view = mmap.mmap(self._fd, size)  # lives as long as tensors on it
            self._bytes = torch.frombuffer(view, dtype=torch.uint8)
            self.size = size

    def write(self, tree: Params, start: int) -> int:
        """Copy ``tree`` to byte ``start`` on; return the first byte after it."""
        places, end = _places(form_of(tree), start)
        self.grow(end)
        for name, place in places.items():
            self._at(place).copy_(tree[name].detach())
        return end

    def read(self, form: Form, start: int) -> Params:
        """Return views of the tensors at byte ``start``; later writes change them."""
        places, _ = _places(form, start)
        return {name: self._at(place) for name, place in places.items()}

    def _at(self, place: "_Place") -> Tensor:
        start, size, dtype, shape = place
        return self._bytes[start : start + size].view(dtype).view(shape)

    def close(self) -> None:
        """Give the file back; tensors on it stay valid."""
        self._bytes = torch.empty(0, dtype=torch.uint8)
        os.close(self._fd)


_Place = tuple[int, int, torch.dtype, tuple[int, ...]]  # start, bytes, dtype, shape


def form_of(tree: Params) -> Form:
    """Return the names, dtypes and shapes of ``tree``, as plain data."""
    return tuple((n, str(t.dtype)[6:], tuple(t.shape)) for n, t in tree.items())


def _places(form: Form, start: int) -> tuple[Mapping[str, _Place], int]:
    """Return where each tensor lies, and the first free byte after all."""
    places: dict[str, _Place] = {}
    for name, kind, shape in form:
        dtype: torch.dtype = getattr(torch, kind)
        size = dtype.itemsize * torch.Size(shape).numel()
        places[name] = (start, size, dtype, tuple(shape))
        start += -(-size // ALIGN_BYTES) * ALIGN_BYTES
    return places, start


def _anonymous_fd() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedcore-slab", os.MFD_CLOEXEC)
    with TemporaryFile() as file:
        return os.dup(file.fileno())
