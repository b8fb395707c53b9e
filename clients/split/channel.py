"""How whole messages get from one side to the other."""

from collections.abc import Callable
from typing import Protocol

from clients.split.messages import encode, refused
from fedcore.errors import PeerLostError, ProtocolError


class Channel(Protocol):
    """Two ways for whole messages, in order.

    Raises:
        PeerLostError: from every method but ``close``: the other side is gone.
    """

    def send(self, data: bytes) -> None:
        """Send one message."""
        ...

    def receive(self) -> bytes:
        """Return the next message; waits for it."""
        ...

    def close(self) -> None:
        """Hang up; may be called again."""
        ...


Dial = Callable[[], Channel]  # opens a channel


class Visit(Protocol):
    """The serving side of one connection."""

    def take(self, data: bytes) -> bytes:
        """Return the answer to ``data``.

        Raises:
            ProtocolError: it breaks a rule; the visit is over.
        """
        ...


def answered(visit: Visit, data: bytes) -> tuple[bytes, bool]:
    """Return the answer of ``visit``, and whether the visit goes on."""
    try:
        return visit.take(data), True
    except ProtocolError as error:
        return encode(refused(error)), False


class MemoryChannel:
    """A channel to a visit in this process: the same bytes, and no thread."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._answers: list[bytes] = []
        self._open = True

    def send(self, data: bytes) -> None:
        """Hand ``data`` over and keep the answer."""
        if not self._open:
            raise PeerLostError("the other side has hung up")
        answer, self._open = answered(self._visit, data)
        self._answers.append(answer)

    def receive(self) -> bytes:
        """Return the oldest answer not yet received."""
        if not self._answers:
            raise PeerLostError("the other side has hung up")
        return self._answers.pop(0)

    def close(self) -> None:
        """Hang up."""
        self._open = False
