"""One aggregator process: ``python -m fedcore.hierarchy.worker SOCKET``.

It is told what to add and says when it has. Only these few words pass over the
socket, which it inherits as an open file; updates and sums stay where they are, in
shared memory. It ends when the other side hangs up. It knows nothing of trees: leaf,
middle and top do the same.
"""

import os
import signal
import socket
import struct
import sys
from dataclasses import astuple
from typing import NoReturn

from fedcore.hierarchy.arena import Arena, Frame
from fedcore.hierarchy.folding import Order, Place

MAP, ADD = range(2)
_MAP = struct.Struct("<BxxxIQQII")  # MAP, aggregator, frame; brings an open file
_ADD = struct.Struct("<BBBxIQdQ")  # ADD, kind, first, -, at, scale, serial
_DONE = struct.Struct("<Q")  # serial
MESSAGE_BYTES = _MAP.size


def map_message(frame: Frame, aggregator: int) -> bytes:
    """Return the message that goes with the arena's open file."""
    return _MAP.pack(MAP, aggregator, *astuple(frame))


def add_message(order: Order) -> bytes:
    """Return ``order`` as a message."""
    return _ADD.pack(
        ADD, order.kind, order.first, 0, order.at, order.scale, order.serial
    )


def done_of(data: bytes) -> tuple[list[int], bytes]:
    """Return the serials that ``data`` says are done, and bytes that make none yet."""
    whole = len(data) // _DONE.size * _DONE.size
    serials = [serial for (serial,) in _DONE.iter_unpack(data[:whole])]
    return serials, data[whole:]


def serve(wire: socket.socket) -> None:
    """Do what comes over ``wire`` until the other side hangs up."""
    arena: Arena | None = None
    place: Place | None = None
    while message := _receive(wire):
        data, files = message
        if data[0] == MAP:
            _, aggregator, *form = _MAP.unpack(data)
            if arena is not None:
                arena.close()
            arena = Arena(Frame(*form), files[0])
            place = Place.of(arena, aggregator)
        elif arena is not None and place is not None:
            _, kind, first, _, at, scale, serial = _ADD.unpack(data)
            order = Order(serial, at, kind, bool(first), scale)
            place.add(arena.read(at, kind), order)
            wire.sendall(_DONE.pack(serial))


def _receive(wire: socket.socket) -> tuple[bytes, list[int]] | None:
    """Return one message and the open files it brought; None at the end."""
    data, files, _, _ = socket.recv_fds(wire, MESSAGE_BYTES, 1)
    while data and len(data) < MESSAGE_BYTES:
        more = wire.recv(MESSAGE_BYTES - len(data))
        if not more:
            return None
        data += more
    return (data, files) if data else None


def main() -> NoReturn:
    """Serve the socket whose number is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    wire = socket.socket(fileno=int(sys.argv[1]))
    try:
        serve(wire)
    except ConnectionError:
        os._exit(1)  # nobody is there to be told
    os._exit(0)


if __name__ == "__main__":
    main()
