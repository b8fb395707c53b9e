"""Memory that the processes of one machine share: slots for updates, places for sums.

An arena is an anonymous file in memory. It has no name, so nothing can be left behind:
it goes when the last process that holds it goes, by kill -9 too. Who makes it hands it
on as an open file over a Unix socket; nobody can shorten it under the others' feet.

Its layout, in this order, every part on a cache line of its own::

    cells      one per aggregator: how far it is, one 64-bit word
    scratch    one per aggregator: one block of a sum, before it is put in place
    sums       one per aggregator: ``numbers`` ring elements, int64
    slots      ``slots`` updates, each ``slot_bytes`` long

It imports no torch, so that an aggregator starts at once.
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConfigError, ProtocolError, StorageError

LINE_BYTES = 64
BLOCK = 1 << 15  # numbers worked on at once: a block and its copies stay in cache
KINDS: Sequence[np.dtype[Any]] = tuple(map(np.dtype, ("<f4", "<f8", "<i8")))
FLOAT32, FLOAT64, INT64 = range(len(KINDS))

Numbers = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Cell = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Frame:
    """What an arena has room for; all who map it must agree.

    Attributes:
        numbers: in one update, >= 1.
        slot_bytes: longest update.
        slots: updates that can wait at once, >= 1.
        aggregators: sums under way at once, >= 1.
    """

    numbers: int
    slot_bytes: int
    slots: int
    aggregators: int

    def __post_init__(self) -> None:
        if min(self.numbers, self.slot_bytes, self.slots, self.aggregators) < 1:
            raise ConfigError(f"an arena needs room for something: {self}")

    def cell_at(self, aggregator: int) -> int:
        """Return where the cell of ``aggregator`` begins, in bytes."""
        return aggregator * LINE_BYTES

    def scratch_at(self, aggregator: int) -> int:
        """Return where the scratch of ``aggregator`` begins, in bytes."""
        return self.cell_at(self.aggregators) + aggregator * BLOCK * 8

    def sum_at(self, aggregator: int) -> int:
        """Return where the sum of ``aggregator`` begins, in bytes."""
        return self.scratch_at(self.aggregators) + aggregator * lines(8 * self.numbers)

    def slot_at(self, slot: int) -> int:
        """Return where ``slot`` begins, in bytes."""
        return self.sum_at(self.aggregators) + slot * lines(self.slot_bytes)

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return self.slot_at(self.slots)


def lines(size_bytes: int) -> int:
    """Return ``size_bytes`` rounded up to whole cache lines."""
    return -(-size_bytes // LINE_BYTES) * LINE_BYTES


class Arena:
    """Shared memory in the form of a ``Frame``.

    Args:
        frame: its form.
        fd: an open file of that size; closed by ``close``.

    Raises:
        ProtocolError: the file has another size.
    """

    def __init__(self, frame: Frame, fd: int) -> None:
        if os.fstat(fd).st_size != frame.size_bytes:
            raise ProtocolError(f"the shared file has not the size of {frame}")
        self.frame, self.fd = frame, fd
        self._bytes = mmap.mmap(fd, frame.size_bytes)  # lives as long as views of it

    @classmethod
    def new(cls, frame: Frame) -> Self:
        """Return a new arena, all zeros. Pages take memory when first written to.

        Raises:
            StorageError: the system gives no such memory, or no more open files.
        """
        with ExitStack() as undo, _told(frame):
            fd = _nameless_file()
            undo.callback(os.close, fd)
            os.ftruncate(fd, frame.size_bytes)
            if sys.platform == "linux":
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            arena = cls(frame, fd)
            undo.pop_all()
            return arena

    def cell(self, aggregator: int) -> Cell:
        """Return the cell of ``aggregator``, shape (1,)."""
        return np.frombuffer(self._bytes, np.uint64, 1, self.frame.cell_at(aggregator))

    def scratch(self, aggregator: int) -> Integers:
        """Return the scratch of ``aggregator``, shape (BLOCK,)."""
        at = self.frame.scratch_at(aggregator)
        return np.frombuffer(self._bytes, np.int64, BLOCK, at)

    def sum(self, aggregator: int) -> Integers:
        """Return the sum of ``aggregator``, shape (numbers,)."""
        return self.read(self.frame.sum_at(aggregator), INT64)

    def read(self, at: int, kind: int) -> Numbers:
        """Return the numbers of ``kind`` that begin at byte ``at``, (numbers,)."""
        return np.frombuffer(self._bytes, KINDS[kind], self.frame.numbers, at)

    def slot(self, slot: int, kind: int, sender: str) -> Numbers:
        """Return ``slot`` as numbers of ``kind``, to be written, shape (numbers,).

        Raises:
            ProtocolError: an update of that kind does not fit in; names ``sender``.
        """
        size_bytes = self.frame.numbers * KINDS[kind].itemsize
        if size_bytes > self.frame.slot_bytes:
            raise ProtocolError(
                f"{sender}: an update of {size_bytes} bytes does not fit into a slot "
                f"of {self.frame.slot_bytes}"
            )
        return self.read(self.frame.slot_at(slot), kind)

    def close(self) -> None:
        """Let go of the file; views stay valid as long as somebody holds them."""
        del self._bytes  # the map holds the file open as long as it has views
        os.close(self.fd)


@contextmanager
def _told(frame: Frame) -> Iterator[None]:
    """Tell of a lack of memory or files as one of our own errors."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"no {frame.size_bytes} bytes of shared memory for {frame.slots} updates: "
            f"{error.strerror}; lower hierarchy.leaves, or set hierarchy.processes = "
            "false"
        ) from error


def _nameless_file() -> int:
    """Return an open file without a name, in memory on Linux."""
    if sys.platform == "linux":
        return os.memfd_create("fedcore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with TemporaryFile() as file:
        return os.dup(file.fileno())
