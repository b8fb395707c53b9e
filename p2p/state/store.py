"""Where logs are kept: the seam between replicas and disks.

Everything is put down in the order in which it happened; ``commit`` makes all of it so
far survive a crash, and a crash before it may lose the newest part, never a middle one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedcore.names import PeerId
from p2p.state.chain import Entry

Row = tuple[Entry, bytes]  # an entry and its link


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is of one log, without its entries.

    Attributes:
        length: number of entries.
        size_bytes: of their bodies.
        heads: signatures by position: of the marks, and of the newest head.
        fork: encoded proof that the writer told two stories; empty if there is none.
        tail: encoded branch that vouches for the end of a log cut short; or empty.
    """

    length: int = 0
    size_bytes: int = 0
    heads: dict[int, bytes] = field(default_factory=dict)
    fork: bytes = b""
    tail: bytes = b""


class LogStore(Protocol):
    """Logs by writer, and what the owner of the store needs besides.

    Raises:
        StorageError: from every method; what was committed is intact.
    """

    def load(self) -> dict[PeerId, Stored]:
        """Return all logs, without their entries."""
        ...

    def rows(self, writer: PeerId, start: int, stop: int) -> list[Row]:
        """Return the entries after position ``start`` up to ``stop``."""
        ...

    def link(self, writer: PeerId, position: int) -> bytes:
        """Return the link at ``position``, from 1 to the log's length."""
        ...

    def append(
        self,
        writer: PeerId,
        start: int,
        rows: Sequence[Row],
        heads: dict[int, bytes],
        dropped: Sequence[int],
    ) -> None:
        """Add ``rows`` behind position ``start``, and heads; forget heads dropped."""
        ...

    def freeze(
        self,
        writer: PeerId,
        length: int,
        fork: bytes,
        tail: bytes,
        owed: Sequence[Entry],
    ) -> None:
        """Cut a log at ``length`` and keep why.

        What is cut goes; ``owed`` is ours and must be said again elsewhere.
        """
        ...

    def drop(self, writer: PeerId) -> None:
        """Let go of a log, as if it had never been."""
        ...

    def set_tail(self, writer: PeerId, tail: bytes) -> None:
        """Put down what vouches for the end of a frozen log."""
        ...

    def owed(self) -> list[Entry]:
        """Return our own entries that were cut and not yet said again, in order."""
        ...

    def settle(self, count: int) -> None:
        """Forget the first ``count`` of ``owed``."""
        ...

    def keep_key(self, seed: bytes, opening: bytes) -> None:
        """Keep a key of our own, made for a new log, and that log's opening."""
        ...

    def own(self) -> list[tuple[bytes, bytes]]:
        """Return all keys kept and their openings, oldest first."""
        ...

    def commit(self, least_bytes: int = 0) -> None:
        """Make everything so far survive a crash.

        Args:
            least_bytes: leave it for later if less waits, as far as that is known.
        """
        ...

    def reopen(self) -> None:
        """Forget what was not committed, as a crash does, and be ready again."""
        ...

    def check_room(self) -> None:
        """Raise StorageError unless there is room for a good many entries."""
        ...


@dataclass
class _Pages:
    """All that a store holds."""

    logs: dict[PeerId, list[Row]] = field(default_factory=dict)
    stored: dict[PeerId, Stored] = field(default_factory=dict)
    owed: list[Entry] = field(default_factory=list)
    keys: list[tuple[bytes, bytes]] = field(default_factory=list)

    def append(
        self,
        writer: PeerId,
        start: int,
        rows: Sequence[Row],
        heads: dict[int, bytes],
        dropped: Sequence[int],
    ) -> None:
        log, old = self.logs.setdefault(writer, []), self.stored.get(writer, Stored())
        if start != len(log):
            raise AssertionError(f"{writer} has {len(log)} entries, not {start}")
        log.extend(rows)
        size = old.size_bytes + sum(len(entry.body) for entry, _ in rows)
        kept = {n: s for n, s in old.heads.items() if n not in dropped} | heads
        self.stored[writer] = replace(old, length=len(log), size_bytes=size, heads=kept)

    def freeze(
        self,
        writer: PeerId,
        length: int,
        fork: bytes,
        tail: bytes,
        owed: Sequence[Entry],
    ) -> None:
        log, old = self.logs.setdefault(writer, []), self.stored.get(writer, Stored())
        self.owed += owed
        del log[length:]
        size = sum(len(entry.body) for entry, _ in log)
        heads = {n: s for n, s in old.heads.items() if n <= length}
        self.stored[writer] = Stored(len(log), size, heads, fork, tail)

    def drop(self, writer: PeerId) -> None:
        self.logs.pop(writer, None)
        self.stored.pop(writer, None)

    def set_tail(self, writer: PeerId, tail: bytes) -> None:
        self.stored[writer] = replace(self.stored[writer], tail=tail)

    def settle(self, count: int) -> None:
        del self.owed[:count]

    def keep_key(self, seed: bytes, opening: bytes) -> None:
        self.keys.append((seed, opening))


class MemoryLogStore:
    """A ``LogStore`` in memory; ``crash`` forgets what was not committed."""

    def __init__(self) -> None:
        self._now, self._safe = _Pages(), _Pages()
        self._since: list[tuple[str, tuple[object, ...]]] = []

    def load(self) -> dict[PeerId, Stored]:
        return dict(self._now.stored)

    def rows(self, writer: PeerId, start: int, stop: int) -> list[Row]:
        return self._now.logs[writer][start:stop]

    def link(self, writer: PeerId, position: int) -> bytes:
        return self._now.logs[writer][position - 1][1]

    def append(
        self,
        writer: PeerId,
        start: int,
        rows: Sequence[Row],
        heads: dict[int, bytes],
        dropped: Sequence[int],
    ) -> None:
        self._do("append", writer, start, rows, heads, dropped)

    def freeze(
        self,
        writer: PeerId,
        length: int,
        fork: bytes,
        tail: bytes,
        owed: Sequence[Entry],
    ) -> None:
        self._do("freeze", writer, length, fork, tail, owed)

    def drop(self, writer: PeerId) -> None:
        self._do("drop", writer)

    def set_tail(self, writer: PeerId, tail: bytes) -> None:
        self._do("set_tail", writer, tail)

    def owed(self) -> list[Entry]:
        return list(self._now.owed)

    def settle(self, count: int) -> None:
        self._do("settle", count)

    def keep_key(self, seed: bytes, opening: bytes) -> None:
        self._do("keep_key", seed, opening)

    def own(self) -> list[tuple[bytes, bytes]]:
        return list(self._now.keys)

    def commit(self, least_bytes: int = 0) -> None:
        if not least_bytes:
            _replayed(self._safe, self._since)
            self._since = []

    def crash(self) -> None:
        """Forget what was not committed, as a power cut does."""
        self._now, self._since = self.copy()._now, []

    def reopen(self) -> None:
        self.crash()

    def check_room(self) -> None:
        """There is always room."""

    def copy(self) -> "MemoryLogStore":
        """Return the store as a copy of its disk would be: what is committed."""
        twin = MemoryLogStore()
        for pages in (twin._now, twin._safe):
            pages.logs = {w: list(rows) for w, rows in self._safe.logs.items()}
            pages.stored = dict(self._safe.stored)
            pages.owed, pages.keys = list(self._safe.owed), list(self._safe.keys)
        return twin

    def _do(self, what: str, *given: object) -> None:
        change = (what, given)
        _replayed(self._now, [change])
        self._since.append(change)


def _replayed(pages: _Pages, changes: Sequence[tuple[str, tuple[object, ...]]]) -> None:
    for what, given in changes:
        getattr(pages, what)(*given)
