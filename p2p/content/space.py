"""A flat place for large files: a folder, or a memory that can crash.

All rules about blobs are in ``p2p.content.shelf``; this is only where bytes lie. A file
name is a content id and a suffix, never a word that a peer or a user chose.
"""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedcore.disk import RealDisk, told
from fedcore.errors import StorageError


class Space(Protocol):
    """Files that are written in part; what ``sync`` saw survives a power cut.

    What was written without ``sync`` survives the end of the program, however sudden.

    Raises:
        StorageError: from every method; files written before are intact.
    """

    def names(self) -> Sequence[str]:
        """Return the names of all files, sorted."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        ...

    def reserve(self, name: str, size_bytes: int) -> None:
        """Make a file of zeros whose room is taken now; gone again if it fails."""
        ...

    def read(self, name: str, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset``; fewer at the end of the file."""
        ...

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset`` of a file that was reserved."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of a file; durable on return, never half there."""
        ...

    def sync(self, name: str) -> None:
        """Make what was written to a file durable."""
        ...

    def flush(self, name: str) -> None:
        """Begin to make what was written to a file durable; see ``flushed``."""
        ...

    def flushed(self, name: str) -> bool:
        """Return whether no ``flush`` of a file is under way; it may have failed."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; durable on return."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file if it is there; a crash may bring it back."""
        ...

    def used(self, name: str) -> int:
        """Return the rank of the last ``use`` of a file; higher is later."""
        ...

    def use(self, name: str) -> None:
        """Rank a file above all others; a crash may undo it."""
        ...


@dataclass
class FolderSpace:
    """A ``Space`` on the file system; private to its owner if it is new."""

    folder: Path
    _newest: int = 0
    _flushing: dict[str, Future[None]] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        return RealDisk(self.folder).names()

    def size(self, name: str) -> int:
        with told(f"read {self.folder / name}"):
            return (self.folder / name).stat().st_size

    def reserve(self, name: str, size_bytes: int) -> None:
        with told(f"make room for {self.folder / name}"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _take_room(handle, size_bytes)
            except OSError:
                self.remove(name)
                raise
            finally:
                os.close(handle)

    def read(self, name: str, offset: int, count: int) -> bytes:
        with told(f"read {self.folder / name}"), (self.folder / name).open("rb") as f:
            f.seek(offset)
            return f.read(count)

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        with told(f"write {self.folder / name}"):
            handle = os.open(self.folder / name, os.O_WRONLY)
            try:
                _write_all(handle, offset, memoryview(data))
            finally:
                os.close(handle)

    def replace(self, name: str, data: bytes) -> None:
        RealDisk(self.folder).replace(name, data)

    def sync(self, name: str) -> None:
        with told(f"write {self.folder / name}"):
            handle = os.open(self.folder / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def flush(self, name: str) -> None:
        done: Future[None] = Future()
        self._flushing[name] = done

        def work() -> None:
            try:
                self.sync(name)
                done.set_result(None)
            except StorageError as error:
                done.set_exception(error)

        threading.Thread(target=work, name="flush", daemon=True).start()

    def flushed(self, name: str) -> bool:
        done = self._flushing.get(name)
        if done is not None and done.done():
            del self._flushing[name]
            done.result()
        return name not in self._flushing

    def rename(self, old: str, new: str) -> None:
        with told(f"rename {self.folder / old}"):
            disk = RealDisk(self.folder)
            disk.rename(old, new)
            disk.sync_names()

    def remove(self, name: str) -> None:
        self._flushing.pop(name, None)  # how that ends says nothing of the next file
        RealDisk(self.folder).remove(name)

    def used(self, name: str) -> int:
        with told(f"read {self.folder / name}"):
            return (self.folder / name).stat().st_mtime_ns

    def use(self, name: str) -> None:
        # A rank kept as a time: it goes up even when the clock is set back.
        self._newest = max(self._newest + 1, time.time_ns())
        with told(f"write {self.folder / name}"):
            os.utime(self.folder / name, ns=(self._newest, self._newest))


def _take_room(handle: int, size_bytes: int) -> None:
    """Make a file ``size_bytes`` long, with room taken on the disk if we can."""
    os.ftruncate(handle, size_bytes)
    if size_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size_bytes)


def _write_all(handle: int, offset: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(handle, data, offset)
        offset, data = offset + done, data[done:]


@dataclass
class MemorySpace:
    """A ``Space`` in memory, for simulations.

    Attributes:
        room_bytes: how much fits; more raises StorageError, as a full disk does.
    """

    room_bytes: int = 1 << 40
    _files: dict[str, bytearray] = field(default_factory=dict)
    _unsure: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)

    def crash(self) -> None:
        """Lose power: what was written and not synced is zeros again."""
        for name, spans in self._unsure.items():
            for begin, end in spans:
                self._files[name][begin:end] = bytes(end - begin)
        self._unsure.clear()

    def names(self) -> Sequence[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return len(self._file(name))

    def reserve(self, name: str, size_bytes: int) -> None:
        self._put(name, bytearray(size_bytes))

    def read(self, name: str, offset: int, count: int) -> bytes:
        return bytes(memoryview(self._file(name))[offset : offset + count])

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        end = offset + len(data)
        self._file(name)[offset:end] = data
        self._unsure.setdefault(name, []).append((offset, end))

    def replace(self, name: str, data: bytes) -> None:
        self._put(name, bytearray(data))

    def sync(self, name: str) -> None:
        self._file(name)
        self._unsure.pop(name, None)

    def flush(self, name: str) -> None:
        self.sync(name)

    def flushed(self, name: str) -> bool:
        return True

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._file(old)
        self._unsure[new] = self._unsure.pop(old, [])
        self.remove(old)

    def remove(self, name: str) -> None:
        for kept in (self._files, self._unsure, self._used):
            kept.pop(name, None)

    def used(self, name: str) -> int:
        return self._used.get(name, 0)

    def use(self, name: str) -> None:
        self._file(name)
        self._used[name] = max(self._used.values(), default=0) + 1

    def _put(self, name: str, data: bytearray) -> None:
        if sum(map(len, self._files.values())) + len(data) > self.room_bytes:
            raise StorageError(f"make room for {name}: no space left in this memory")
        self._files[name], self._unsure[name] = data, []

    def _file(self, name: str) -> bytearray:
        if name not in self._files:
            raise StorageError(f"read {name}: no such file")
        return self._files[name]
