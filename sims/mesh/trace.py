"""What happened: a bounded list for people, and a digest of all of it for programs."""

import hashlib
import zlib
from collections import Counter, deque

KEPT_LINES = 400


class Trace:
    """Hears of everything; keeps the newest lines and a digest of all.

    Two runs with equal digests saw the same events, bytes included, in one order.

    Attributes:
        tally: how often each thing happened, faults included.
        lines: the newest lines, oldest first.
    """

    def __init__(self, kept: int = KEPT_LINES) -> None:
        self.tally: Counter[str] = Counter()
        self.lines: deque[tuple[float, str, str, int]] = deque(maxlen=kept)
        self._digest = hashlib.sha256()
        self._seen = 0

    def add(self, at_s: float, who: str, what: str, body: bytes = b"") -> None:
        """Note that ``who`` did or met ``what`` at ``at_s``, with ``body``."""
        self._seen += 1
        said = f"{at_s!r}\0{who}\0{what}\0{len(body)}\0{zlib.crc32(body)}\n"
        self._digest.update(said.encode())
        self.lines.append((at_s, who, what, len(body)))

    def count(self, what: str, by: int = 1) -> None:
        """Count ``what`` without a line of its own."""
        self.tally[what] += by

    @property
    def digest(self) -> str:
        """SHA-256 of everything so far, in hex."""
        return self._digest.hexdigest()

    def text(self, newest: int = KEPT_LINES) -> str:
        """Return the newest lines, oldest first, one event a line."""
        lines = list(self.lines)[-newest:]
        before = self._seen - len(lines)
        head = [f"... {before} lines before"] if before else []
        return "\n".join([*head, *map(_line, lines)])


def _line(line: tuple[float, str, str, int]) -> str:
    at_s, who, what, size_bytes = line
    kind, _, rest = what.partition(" ")
    size = f"  {size_bytes} B" if size_bytes else ""
    return f"{at_s:11.4f} s  {who:<4} {kind:<9} {rest}{size}"
