"""Delay and loss in user space, for kernels without ``netem``.

A link is two TAP devices, one at each end; what enters one waits here and comes out
of the other.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import threading
import time

_TUNSETIFF = 0x400454CA
_TAP, _NO_INFO = 2, 0x1000
_numbers = itertools.count()


class Switch:
    """Delays and loses frames on every link that it makes.

    Args:
        delay_s: one way, in seconds.
        loss: probability that a frame is lost.
        seed: of the losses.
    """

    def __init__(self, delay_s: float, loss: float, seed: int = 0) -> None:
        self.delay_s, self.loss = delay_s, loss
        self.rng = random.Random(seed)
        self.selector = selectors.DefaultSelector()
        self.waiting: list[tuple[float, int, int, bytes]] = []
        self.numbers = itertools.count()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def link(self, space: str, name: str, other: str, far: str) -> None:
        """Make a link from ``name`` in ``space`` to ``far`` in namespace ``other``."""
        a, b = _tap(space, name), _tap(other, far)
        self.selector.register(a, selectors.EVENT_READ, b)
        self.selector.register(b, selectors.EVENT_READ, a)

    def close(self) -> None:
        """Stop; the links are gone."""
        self.stop.set()
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            os.close(key.fd)
        self.selector.close()

    def _run(self) -> None:
        while not self.stop.is_set():
            wait_s = self.waiting[0][0] - time.monotonic() if self.waiting else 0.05
            for key, _ in self.selector.select(min(0.05, max(0.0, wait_s))):
                self._take(key.fd, key.data)
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, sink, frame = heapq.heappop(self.waiting)
                with contextlib.suppress(OSError):
                    os.write(sink, frame)

    def _take(self, source: int, sink: int) -> None:
        with contextlib.suppress(OSError):  # nothing more, or the device is down
            for _ in range(64):
                frame = os.read(source, 1 << 16)
                if self.rng.random() >= self.loss:
                    due_s = time.monotonic() + self.delay_s
                    heapq.heappush(
                        self.waiting, (due_s, next(self.numbers), sink, frame)
                    )


def _tap(space: str, name: str) -> int:
    """Return the descriptor of a new TAP device ``name`` in ``space``."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    first = f"fc{os.getpid() % 1_000_000}t{next(_numbers)}"
    request = struct.pack("16sH22x", first.encode(), _TAP | _NO_INFO)
    fcntl.ioctl(fd, _TUNSETIFF, request)
    lines = f"link set {first} netns {space} name {name}\n"
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
    return fd
