"""Bodies on their way in: where their bytes go, and what may be refused early."""

from dataclasses import dataclass
from typing import Final

from fedcore.errors import ProtocolError

_WASTE: Final = memoryview(bytearray(1 << 16))  # written by all, read by nobody


@dataclass(slots=True)
class Arriving:
    """A body of ``total`` bytes, ``at`` of them here.

    Attributes:
        target: where they go; None throws them away.
        topic: of an ask or a tell.
        owned: the buffer was made for it.
    """

    total: int
    target: memoryview | None
    at: int = 0
    topic: str = ""
    owned: bool = False

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return self.at == self.total

    def place(self, most_bytes: int) -> memoryview:
        """Return where the next bytes go, at most ``most_bytes`` of them."""
        if self.target is None:
            return _WASTE[:most_bytes]
        return self.target[self.at : self.at + most_bytes]

    def check(self, offset: int, part_bytes: int) -> None:
        """Raise ProtocolError unless a part continues the body where it stopped."""
        if offset != self.at or part_bytes > self.total - self.at:
            raise ProtocolError(
                f"bytes {offset} to {offset + part_bytes} of a body of {self.total}"
                f" of which {self.at} are here"
            )


def fresh(total: int, topic: str = "") -> Arriving:
    """Return a body with a buffer of its own; check ``total`` before."""
    return Arriving(total, memoryview(bytearray(total)), topic=topic, owned=True)
