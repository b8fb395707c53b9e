"""One thread that waits for many sockets and timers, and does what is posted to it."""

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Work = Callable[[], object]
Moves = Callable[[int], object]  # told which of READ and WRITE a socket is ready for


class Waiting:
    """The thread. ``watch`` and ``later`` are for work that runs on it.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._posts: deque[Work] = deque()
        self._later: list[tuple[float, int, Work]] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.watch(self._woken, READ, self._drain)
        self._thread.start()

    def post(self, work: Work) -> None:
        """Have ``work`` done on the thread, soon. From any thread."""
        self._posts.append(work)
        self._rouse()

    def later(self, wait_s: float, work: Work) -> None:
        """Do ``work`` in ``wait_s`` seconds."""
        entry = (time.monotonic() + wait_s, next(self._order), work)
        heapq.heappush(self._later, entry)

    def watch(self, sock: socket.socket, events: int, moves: Moves) -> None:
        """Call ``moves`` whenever ``sock`` is ready for one of ``events``."""
        known = self._selector.get_map().get(sock)
        if known is None and events:
            self._selector.register(sock, events, moves)
        elif known is not None and not events:
            self._selector.unregister(sock)
        elif known is not None:
            self._selector.modify(sock, events, moves)

    def forget(self, sock: socket.socket) -> None:
        """Close ``sock``, and watch it no more."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(sock)
        sock.close()

    def end(self) -> None:
        """Do what is posted, and end the thread."""
        self._ending = True
        self._rouse()
        self._thread.join()
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _rouse(self) -> None:
        with suppress(OSError):  # full: it wakes anyway
            self._wake.send(b"\0")

    def _drain(self, _: int) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(1 << 12)

    def _run(self) -> None:
        while True:
            due_s = self._later[0][0] - time.monotonic() if self._later else None
            for key, events in self._selector.select(due_s):
                key.data(events)
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
            while self._posts:
                self._posts.popleft()()
            if self._ending:
                return
