"""The sender's end of ways to hand updates from one process to another.

See ``sims.bench.peers.carriers`` for the other end. Every way is told by the same
measure: from the first update until the last one is in the aggregator's sum.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedcore.closing import Closing
from fedcore.errors import PeerLostError
from fedcore.hierarchy.arena import FLOAT32, Arena
from sims.bench.peers.carriers import ASK, WORD, frame_of

ROOT = Path(__file__).parents[2]
START_S = 60.0  # longest wait for the other end

Floats = npt.NDArray[np.float32]


PICKLED = """
import pickle, socket, struct, sys, time
import numpy as np
from sims.bench.peers.carriers import fill, work_of

work, numbers, port, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
size = struct.Struct("<q")

def take():
    do = work_of(work, numbers)
    with socket.create_server(("127.0.0.1", port)) as door:
        wire, _ = door.accept()
    while head := wire.recv(8, socket.MSG_WAITALL):
        count = size.unpack(head)[0]
        if count:
            data = bytearray(count)
            fill(wire, memoryview(data))
            do(pickle.loads(data)["w"])
        else:
            wire.sendall(head)

def connected():
    for _ in range(1000):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("nobody takes anything")

def send():
    wire, x = connected(), np.linspace(-1, 1, numbers, dtype=np.float32)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            data = pickle.dumps({"w": x}, protocol=5)
            wire.sendall(size.pack(len(data)))
            wire.sendall(data)
        wire.sendall(size.pack(0))
        wire.recv(8, socket.MSG_WAITALL)
        print(time.perf_counter() - began, flush=True)

take() if end == "take" else send()
"""


class Carrier(Protocol):
    """One way, with an aggregator at its other end."""

    def turn(self, updates: int) -> float:
        """Return the seconds until ``updates`` are in the sum."""
        ...

    def close(self) -> None:
        """End the aggregator."""
        ...


class _Peer:
    """The aggregator's process."""

    def __init__(
        self, way: str, work: str, numbers: int, where: Sequence[int], files: bool
    ) -> None:
        words = [way, work, str(numbers), *map(str, where)]
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", "sims.bench.peers.carriers", *words],
            stdin=subprocess.DEVNULL,
            pass_fds=where if files else (),
            cwd=ROOT,
        )

    def close(self) -> None:
        """Wait for the process, whose wire has been closed."""
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pickled:
    """Objects over TCP, pickled: both ends in programs of their own."""

    def __init__(self, work: str, numbers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(START_S)
            port = str(door.getsockname()[1])
        words = [sys.executable, "-c", PICKLED, work, str(numbers), port]
        self._ends = [
            subprocess.Popen(  # noqa: S603  our own script
                [*words, end],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
            for end in ("take", "send")
        ]

    def turn(self, updates: int) -> float:
        inward, outward = self._ends[1].stdin, self._ends[1].stdout
        if inward is None or outward is None:
            raise PeerLostError("the sender has no pipes")
        inward.write(f"{updates}\n")
        inward.flush()
        return float(outward.readline())

    def close(self) -> None:
        for end in reversed(self._ends):  # the sender hangs up on the other
            end.communicate()


class Raw:
    """Bytes over TCP, read straight into place."""

    def __init__(self, work: str, numbers: int) -> None:
        self._x = _update(numbers)
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(START_S)
            port = door.getsockname()[1]
            self._peer = _Peer("tcp", work, numbers, [port], files=False)
            self._wire, _ = door.accept()
        self._wire.settimeout(None)

    def turn(self, updates: int) -> float:
        began = time.perf_counter()
        for _ in range(updates):
            self._wire.sendall(WORD.pack(self._x.nbytes))
            self._wire.sendall(self._x.view(np.uint8).data)
        self._wire.sendall(WORD.pack(ASK))
        self._wire.recv(WORD.size, socket.MSG_WAITALL)
        return time.perf_counter() - began

    def close(self) -> None:
        self._wire.close()
        self._peer.close()


class Shared:
    """Memory, with descriptors over a Unix socket."""

    def __init__(self, work: str, numbers: int) -> None:
        self._x = _update(numbers)
        self._arena = Arena.new(frame_of(numbers))
        self._wire, theirs = socket.socketpair()
        with theirs:
            where = [theirs.fileno(), self._arena.fd]
            self._peer = _Peer("shared", work, numbers, where, files=True)
        self._free = list(range(self._arena.frame.slots))

    def turn(self, updates: int) -> float:
        began = time.perf_counter()
        for _ in range(updates):
            while not self._free:
                self._take()
            slot = self._free.pop()
            self._arena.slot(slot, FLOAT32, "sender")[:] = self._x
            self._wire.sendall(WORD.pack(slot))
        while len(self._free) < self._arena.frame.slots:
            self._take()
        return time.perf_counter() - began

    def _take(self) -> None:
        data = self._wire.recv(WORD.size, socket.MSG_WAITALL)
        self._free.append(WORD.unpack(data)[0])

    def close(self) -> None:
        self._wire.close()
        self._peer.close()
        self._arena.close()


def _update(numbers: int) -> Floats:
    return np.linspace(-1, 1, numbers, dtype=np.float32)


WAYS: Mapping[str, Callable[[str, int], Carrier]] = {
    "shared": Shared,
    "pickle": Pickled,
    "tcp": Raw,
}


class Race(Closing):
    """All ways side by side, ready to take turns."""

    def __init__(self, work: str, numbers: int) -> None:
        self._ways: dict[str, Carrier] = {}
        for name, make in WAYS.items():
            self._ways[name] = make(work, numbers)
            self._ways[name].turn(2)  # start-up and first touch are not told

    def turn(self, name: str, updates: int) -> float:
        """Return the seconds that ``updates`` take the way called ``name``."""
        return self._ways[name].turn(updates)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()
