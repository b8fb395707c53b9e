"""Bytes from one socket to another, without looking at them.

On Linux they never leave the kernel: ``splice`` moves pages from a socket into a pipe
and from the pipe into the other socket. Elsewhere they pass through one buffer.
"""

import os
import socket
from contextlib import suppress
from typing import Protocol

PIPE_BYTES = 1 << 18  # most bytes under way in one direction
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which Python 3.11 has under Linux only


class Flow(Protocol):
    """One direction of a circuit. Both sockets are non-blocking."""

    source: socket.socket
    sink: socket.socket
    held: int  # bytes taken from the source and not given to the sink yet
    ended: bool  # the source said its last byte

    def take(self) -> int:
        """Take bytes from the source; return how many; BlockingIOError if none yet."""
        ...

    def give(self) -> int:
        """Give held bytes to the sink; return how many; BlockingIOError if full."""
        ...

    def close(self) -> None: ...


class SplicedFlow:
    """A flow through a pipe of the kernel."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held, self.ended = 0, False
        self._out, self._into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError, ImportError):  # a smaller pipe only costs speed
            import fcntl

            fcntl.fcntl(self._into, _SET_PIPE_SIZE, PIPE_BYTES)

    def take(self) -> int:
        # into an empty pipe only: a full one is the other reason for EAGAIN
        count = os.splice(self.source.fileno(), self._into, PIPE_BYTES, flags=3)
        self.held += count
        self.ended = not count
        return count

    def give(self) -> int:
        count = os.splice(self._out, self.sink.fileno(), self.held, flags=3)
        self.held -= count
        return count

    def close(self) -> None:
        os.close(self._out)
        os.close(self._into)


class CopiedFlow:
    """A flow through a buffer of ours, for systems without ``splice``."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held, self.ended = 0, False
        self._view = memoryview(bytearray(PIPE_BYTES))
        self._at = 0

    def take(self) -> int:
        count = self.source.recv_into(self._view)
        self._at, self.held = 0, count
        self.ended = not count
        return count

    def give(self) -> int:
        count = self.sink.send(self._view[self._at : self._at + self.held])
        self._at += count
        self.held -= count
        return count

    def close(self) -> None:
        self._view.release()


def flow(source: socket.socket, sink: socket.socket) -> Flow:
    """Return the fastest flow that this system has."""
    fast = hasattr(os, "splice") and hasattr(os, "pipe2")
    return SplicedFlow(source, sink) if fast else CopiedFlow(source, sink)
