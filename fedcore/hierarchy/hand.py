"""One aggregator process, seen from the pool that supervises it."""

import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from fedcore.errors import PeerLostError
from fedcore.hierarchy.arena import Arena
from fedcore.hierarchy.folding import Order
from fedcore.hierarchy.role import Merge
from fedcore.hierarchy.worker import add_message, done_of, map_message

TRIES = 3  # deaths over one order before we give up on it
END_S = 5.0  # a process that was told to end may take so long
READ_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Errand:
    """An order that is out, and what it is for.

    Attributes:
        slot: free again when the order is done; -1 for none.
        merge: the step of the tree that it is, if it is one.
    """

    order: Order
    slot: int = -1
    merge: Merge | None = None


@contextmanager
def _told(number: int) -> Iterator[None]:
    """Tell of a lack of processes or files as one of our own errors."""
    try:
        yield
    except OSError as error:
        raise PeerLostError(
            f"aggregator {number} cannot be started: {error.strerror}; lower "
            "hierarchy.leaves, or set hierarchy.processes = false"
        ) from error


def _started(wire: int) -> subprocess.Popen[bytes]:
    """Return a process that serves the socket whose number is ``wire``."""
    return subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-m", "fedcore.hierarchy.worker", str(wire)],
        stdin=subprocess.DEVNULL,
        pass_fds=[wire],
    )


class Hand:
    """An aggregator: orders go in, in turn, and come back done, in turn.

    If its process dies, another goes on in its place, from the very number at which
    it stopped: sums, updates and progress are in the arena, not in the process.

    Args:
        number: which aggregator of the arena it is.
        arena: where it works.

    Raises:
        PeerLostError: the system starts no more processes, or opens no more files.
    """

    def __init__(self, number: int, arena: Arena) -> None:
        self.number, self.arena = number, arena
        self.pending: deque[Errand] = deque()
        self.given = 0  # orders of this aggregation
        self.deaths = 0  # since an order was done
        self._serial = 0
        self._begin()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def _begin(self) -> None:
        with _told(self.number), ExitStack() as undo:
            self.wire, theirs = socket.socketpair()
            undo.callback(self.wire.close)
            with theirs:
                self._process = _started(theirs.fileno())
            undo.pop_all()
        self._rest = b""
        self._show()

    def _show(self) -> None:
        message = map_message(self.arena.frame, self.number)
        with suppress(ConnectionError):  # a dead one is found out by ``done``
            socket.send_fds(self.wire, [message], [self.arena.fd])

    def map(self, arena: Arena) -> None:
        """Go on in another ``arena``, all zeros; nothing may be pending."""
        self.arena, self._serial = arena, 0
        self._show()

    def begin_sum(self) -> None:
        """Forget the sum: the next order replaces it."""
        self.given = 0

    def give(
        self,
        at: int,
        kind: int,
        scale: float,
        slot: int = -1,
        merge: Merge | None = None,
    ) -> None:
        """Have the numbers at byte ``at`` added."""
        self._serial += 1
        order = Order(self._serial, at, kind, self.given == 0, scale)
        self.given += 1
        errand = Errand(order, slot, merge)
        self.pending.append(errand)
        self._send(errand)

    def _send(self, errand: Errand) -> None:
        with suppress(ConnectionError):  # a dead one is found out by ``done``
            self.wire.sendall(add_message(errand.order))

    def done(self) -> list[Errand]:
        """Return the orders done; call it when ``wire`` can be read.

        Raises:
            PeerLostError: the process died again and again over the same order.
        """
        try:
            data = self.wire.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self.revive()
            return []
        serials, self._rest = done_of(self._rest + data)
        errands = []
        for serial in serials:
            if self.pending and self.pending[0].order.serial == serial:
                errands.append(self.pending.popleft())
                self.deaths = 0
        return errands

    def revive(self) -> None:
        """Put another process in the place of this one; it goes on with its orders.

        Raises:
            PeerLostError: it is the ``TRIES``-th time over the same order.
        """
        self.end(at_once=True)
        self.deaths += 1
        if self.deaths >= TRIES and self.pending:
            raise PeerLostError(
                f"aggregator {self.number} died {self.deaths} times over one update"
            )
        self._begin()
        for errand in self.pending:
            self._send(errand)

    def replace(self) -> None:
        """Put a fresh process in the place of this one, with nothing to do."""
        self.end(at_once=True)
        self.pending.clear()
        self.deaths = 0
        self._begin()

    def end(self, at_once: bool = False) -> None:
        """End the process: by hanging up, or by force if it does not listen."""
        self.wire.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
