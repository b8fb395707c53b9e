"""The aggregator's end of ways to hand updates from one process to another.

    python -m sims.bench.peers.carriers WAY WORK NUMBERS WHERE

``WAY`` is ``tcp`` (raw bytes over TCP) or ``shared`` (memory, with descriptors over a
Unix socket). ``WORK`` is what is done with an update: ``add`` it to a float32 sum, or
``fold`` it into an exact one as our aggregators do. ``WHERE`` is a port, or two
inherited files.

It imports no torch, as our aggregators do not.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from itertools import count
from typing import Protocol

import numpy as np

from fedcore.hierarchy.arena import BLOCK, FLOAT32, KINDS, Arena, Frame, Numbers
from fedcore.hierarchy.folding import Order, Place

WORD = struct.Struct("<q")  # a slot or a size; below 0 asks for a word in return
ASK = -1
ONE = float(1 << 32)  # the ring's unit (fedcore.ring)


class Work(Protocol):
    """What an aggregator does with one update."""

    def __call__(self, x: Numbers) -> object: ...


def frame_of(numbers: int) -> Frame:
    """Return the form of the memory that both ends share."""
    return Frame(numbers, KINDS[FLOAT32].itemsize * numbers, slots=2, aggregators=1)


def work_of(name: str, numbers: int) -> Work:
    """Return the work called ``name``."""
    if name == "add":
        total = np.zeros(numbers, np.float32)
        return lambda x: np.add(total, x, out=total)
    cell, scratch = np.zeros(1, np.uint64), np.zeros(BLOCK, np.int64)
    place = Place(cell, scratch, np.zeros(numbers, np.int64), np.empty(BLOCK))
    serials = count(1)
    return lambda x: place.add(x, Order(next(serials), 0, FLOAT32, False, ONE))


def by_tcp(work: Work, port: int, numbers: int) -> None:
    """Take raw bytes from ``port``."""
    with socket.create_connection(("127.0.0.1", port)) as wire:
        x = np.empty(numbers, np.float32)
        for size in words(wire):
            if size == ASK:
                wire.sendall(WORD.pack(ASK))
            else:
                fill(wire, x.view(np.uint8).data)
                work(x)


def by_memory(work: Work, wire: socket.socket, arena: Arena) -> None:
    """Take slots of ``arena``; every one is given back with its number."""
    for slot in words(wire):
        if slot != ASK:
            work(arena.slot(slot, FLOAT32, "sender"))
        wire.sendall(WORD.pack(slot))


def words(wire: socket.socket) -> Iterator[int]:
    """Yield the words that come, until the other side hangs up."""
    while len(data := wire.recv(WORD.size, socket.MSG_WAITALL)) == WORD.size:
        yield WORD.unpack(data)[0]


def fill(wire: socket.socket, view: memoryview) -> None:
    """Read bytes until ``view`` is full."""
    while view:
        view = view[wire.recv_into(view) :]


def main() -> None:
    """Serve one producer until it hangs up."""
    way, name, numbers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    where = list(map(int, sys.argv[4:]))
    work = work_of(name, numbers)
    if way == "tcp":
        by_tcp(work, where[0], numbers)
    else:
        wire = socket.socket(fileno=where[0])
        by_memory(work, wire, Arena(frame_of(numbers), where[1]))


if __name__ == "__main__":
    main()
