"""Tensors in memory that two processes share, with no file left behind.

A slab is an anonymous file (Linux: ``memfd_create``; elsewhere a temporary file
without a name). It goes when the last process that holds it goes, kill -9
included: nothing stays in ``/dev/shm``. Either side may make it longer; the
other maps it anew when it hears of the new size.
"""

import mmap
import os
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedcore.params import Params
from sims.memory import nameless_file

ALIGN_BYTES = 64  # a cache line; also makes every dtype's view legal
FIRST_BYTES = 1 << 20

Form = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, dtype, shape per tensor


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies, from the first byte of its tree on."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors of a tree lie.

    Attributes:
        size: bytes of the tree, gaps included.
    """

    places: tuple[Place, ...]
    size: int


def form_of(tree: Params) -> Form:
    """Return the names, dtypes and shapes of ``tree``, as plain data."""
    return tuple((n, str(t.dtype)[6:], tuple(t.shape)) for n, t in tree.items())


@lru_cache(maxsize=256)
def layout_of(form: Form) -> Layout:
    """Return where the tensors of a tree of this form lie."""
    places, first = [], 0
    for name, kind, shape in form:
        dtype: torch.dtype = getattr(torch, kind)
        strides = torch.empty(shape, device="meta").stride()
        places.append(Place(name, dtype, shape, strides, first))
        size = dtype.itemsize * torch.Size(shape).numel()
        first += -(-size // ALIGN_BYTES) * ALIGN_BYTES
    return Layout(tuple(places), first)


class Slab:
    """A growing block of bytes, shared with the processes forked after it was made."""

    def __init__(self) -> None:
        self._fd = nameless_file()
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._views: dict[torch.dtype, Tensor] = {}  # the bytes, as each dtype
        self.size = 0
        self.grow(FIRST_BYTES)

    def grow(self, size: int) -> None:
        """Make room for ``size`` bytes; what is there stays."""
        if size > self.size:
            size = -(-max(size, 2 * self.size) // ALIGN_BYTES) * ALIGN_BYTES
            os.ftruncate(self._fd, size)
            self.map(size)

    def map(self, size: int) -> None:
        """See all ``size`` bytes, after the other side has grown the slab."""
        if size > self.size:
            view = mmap.mmap(self._fd, size)  # lives as long as tensors on it
            self._bytes = torch.frombuffer(view, dtype=torch.uint8)
            self._views.clear()
            self.size = size

    def write(self, tree: Params, form: Form, start: int) -> int:
        """Copy ``tree`` to byte ``start`` on; return the first byte after it."""
        layout = layout_of(form)
        self.grow(start + layout.size)
        for place in layout.places:
            self._at(place, start).copy_(tree[place.name].detach())
        return start + layout.size

    def read(self, form: Form, start: int) -> Params:
        """Return views of the tensors at byte ``start``; later writes change them."""
        return {p.name: self._at(p, start) for p in layout_of(form).places}

    def _at(self, place: Place, start: int) -> Tensor:
        whole = self._views.get(place.dtype)
        if whole is None:
            whole = self._views[place.dtype] = self._bytes.view(place.dtype)
        first = (start + place.first) // place.dtype.itemsize
        return whole.as_strided(place.shape, place.strides, first)

    def close(self) -> None:
        """Give the file back; tensors on it stay valid."""
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._views.clear()
        os.close(self._fd)
