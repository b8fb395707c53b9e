"""A socket for small heads and shared memory for big bytes, between two processes."""

import json
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sims.memory import nameless_file

FRAME = struct.Struct("<Q")
STEP = 1 << 20  # a slab grows by whole mebibytes


class Slab:
    """Memory that parent and worker share; grows, and needs no name to be cleaned."""

    def __init__(self) -> None:
        """Make an empty slab; call before the fork."""
        self._file = nameless_file()
        self._map: mmap.mmap | None = None

    def write(self, blobs: Iterable[bytes]) -> list[int]:
        """Put ``blobs`` one after another; return their sizes."""
        pieces = list(blobs)
        view, at = self._view(sum(map(len, pieces))), 0
        for piece in pieces:
            view[at : at + len(piece)] = piece
            at += len(piece)
        return [len(piece) for piece in pieces]

    def read(self, sizes: list[int]) -> list[bytes]:
        """Return the pieces that the other side put."""
        return list(_cut(self._view(sum(sizes)), sizes))

    def _view(self, size: int) -> memoryview:
        if self._map is None or len(self._map) < size:
            length = max(-(-size // STEP) * STEP, os.fstat(self._file).st_size, STEP)
            if os.fstat(self._file).st_size < length:
                os.ftruncate(self._file, length)
            self._map = mmap.mmap(self._file, length)
        return memoryview(self._map)

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._file)


def put(line: socket.socket, slab: Slab, head: Any, blobs: Sequence[bytes]) -> None:
    """Send ``head`` on the line after ``blobs`` are in the slab."""
    sizes = slab.write(blobs)
    body = json.dumps([head, sizes], separators=(",", ":")).encode()
    line.sendall(FRAME.pack(len(body)) + body)


def get(line: socket.socket, slab: Slab) -> tuple[Any, list[bytes]]:
    """Return what the other side put.

    Raises:
        EOFError: the other side hung up.
    """
    (length,) = FRAME.unpack(_exactly(line, FRAME.size))
    head, sizes = json.loads(_exactly(line, length))
    return head, slab.read(sizes)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = line.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _cut(data: memoryview, sizes: list[int]) -> Iterator[bytes]:
    """Yield consecutive pieces of ``data`` as bytes of their own."""
    at = 0
    for size in sizes:
        yield bytes(data[at : at + size])
        at += size
