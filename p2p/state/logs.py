"""All logs that a replica holds: the part of the state that is replicated.

A log grows by segments that its writer signed. When a writer is found to have signed
two entries for one position, the log is cut there and *frozen*: nothing from that
position on counts, on whichever branch. Of several forks of a writer the first one
counts. So what replicas hold in the end depends only on what they have heard, not on
the order:

    longest log, of those a writer signed     while it tells one story
    what all its stories have in common       when it told more

A log cut short ends where nothing is signed; its *tail*, the branch to a signed head,
vouches for it. If a replica holds a branch that nobody's proof is about, its log does
not agree with others' of the same length; then they look for the earlier fork
(``p2p.state.search``), and cut again.

Nothing is dropped but signatures between marks: every entry stays, at most 2^20
and 4 GiB a writer. An older value of a register cannot go, because the newer one may
yet be cut off by a fork or a removal, and then the older counts again.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct

from fedcore.errors import StorageError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.identity.keys import Key
from p2p.identity.openings import Opening
from p2p.state.chain import (
    TAG_BYTES,
    Entry,
    Tip,
    digest_of,
    first_link,
    raw_of,
    sign_head,
)
from p2p.state.changes import Changes
from p2p.state.encoding import Item, get_branch, get_fork, put_branch, put_fork
from p2p.state.segments import Branch, Fork, Openings, Segment, ordered
from p2p.state.store import LogStore, Row, Stored

_SIZES = Struct("<QQ")


@dataclass(slots=True)
class Log:
    """What is known of one writer.

    Attributes:
        opening: what let it in; None while the log is empty and not frozen.
        heads: signatures by position; ``stops`` are these positions, ascending.
        loose: a head that is not at a mark, and goes when a newer one comes.
        fork: why the log is frozen.
        tail: what vouches for the end, if that is not signed.
    """

    tip: Tip
    opening: Opening | None = None
    heads: dict[int, bytes] = field(default_factory=dict)
    stops: list[int] = field(default_factory=list)
    loose: int = 0
    fork: Fork | None = None
    tail: Branch | None = None

    @property
    def limit(self) -> int | None:
        """The most entries it may have; None if it is not frozen."""
        return self.fork.position - 1 if self.fork else None


@dataclass(frozen=True)
class Pen:
    """A key that writes a log of ours, and what let it in."""

    key: Key
    opening: Opening

    @property
    def writer(self) -> PeerId:
        """The name of the log."""
        return self.opening.writer

    def sign(self, network: str, tip: Tip) -> bytes:
        """Return the signature under ``tip``."""
        return sign_head(self.key, network, self.writer, tip)


@dataclass(frozen=True, slots=True)
class News:
    """Entries that have been checked and may be added."""

    writer: PeerId
    opening: Opening
    rows: Sequence[Row]
    before: Tip
    tip: Tip
    loose: bool
    rest: Branch


class Logs:
    """The logs of one network, by writer; every change goes to the store first."""

    def __init__(self, network: str, store: LogStore, openings: Openings) -> None:
        self.network, self.store, self.openings = network, store, openings
        self.changes = Changes()
        self._root: bytes | None = None
        self.by_writer = {w: self._loaded(w, s) for w, s in store.load().items()}

    def root(self) -> bytes:
        """Return 32 bytes that are equal exactly where the logs are."""
        if self._root is None:
            whole = sha256(self.network.encode())
            for raw, log in sorted((raw_of(w), g) for w, g in self.by_writer.items()):
                fork = log.fork.position if log.fork else 0
                sizes = log.tip.length.to_bytes(8, "little") + fork.to_bytes(
                    8, "little"
                )
                whole.update(raw + sizes + log.tip.link)
            self._root = whole.digest()
        return self._root

    def tip(self, writer: PeerId) -> Tip:
        """Return where the log of ``writer`` ends; an empty one begins at h_0."""
        log = self.by_writer.get(writer)
        return log.tip if log else Tip(0, first_link(self.network, writer))

    def link(self, writer: PeerId, position: int) -> bytes:
        """Return the link at ``position``, at most the log's length."""
        tip = self.tip(writer)
        if position == tip.length:
            return tip.link
        if not position:
            return first_link(self.network, writer)
        return self.store.link(writer, position)

    def item(self, writer: PeerId) -> Item:
        """Return how far we know ``writer``."""
        tip, log = self.tip(writer), self.by_writer.get(writer)
        fork = log.fork.position if log and log.fork else 0
        return Item(writer, tip.length, tip.link[:TAG_BYTES], fork)

    def differs(self, item: Item) -> bool:
        """Return whether ``item`` is about another log than ours, as far as we know."""
        if item.length > self.tip(item.writer).length:
            return False
        return self.link(item.writer, item.length)[:TAG_BYTES] != item.tag

    def add(self, news: News) -> None:
        """Add what ``p2p.state.checking`` has found good."""
        log = self.by_writer.get(news.writer) or Log(news.before)
        signed = not news.rest.digests
        heads = {news.tip.length: news.rest.signature} if signed else {}
        dropped = [log.loose] if log.loose else []
        before = news.before.length
        self.store.append(news.writer, before, news.rows, heads, dropped)
        if not signed:
            self.store.set_tail(news.writer, put_branch(news.rest))
        self._changed(news.writer)
        for position in dropped:
            del log.heads[position]
            log.stops.pop()  # the newest, as it is loose
        log.heads |= heads
        log.stops += heads
        log.loose = news.tip.length if news.loose and signed else 0
        log.tip, log.opening = news.tip, news.opening
        log.tail = None if signed else news.rest
        self.by_writer[news.writer] = log

    def say(self, pen: Pen, entries: Sequence[Entry]) -> list[News]:
        """Return what ``pen`` adds to its own log, signed, ready for ``add``.

        Raises:
            ProtocolError: an entry is too long, or the log is full.
        """
        found: list[News] = []
        start = before = self.tip(pen.writer)
        rows: list[Row] = []
        for left, entry in zip(range(len(entries) - 1, -1, -1), entries, strict=True):
            tip = before.plus(entry)
            rows.append((entry, tip.link))
            marked = tip.marked(before)
            if marked or not left:
                rest = Branch((), pen.sign(self.network, tip))
                loose = not marked
                found.append(
                    News(pen.writer, pen.opening, rows, start, tip, loose, rest)
                )
                start, rows = tip, []
            before = tip
        return found

    def freeze(self, fork: Fork, ours: bool) -> bool:
        """Take in a fork that was checked; return whether entries were cut off.

        Args:
            fork: proof that its writer told two stories.
            ours: what is cut off was said by us, and is to be said again.
        """
        log = self.by_writer.get(fork.writer) or Log(self.tip(fork.writer))
        if log.fork and log.fork.position <= fork.position:
            return False
        limit, length = fork.position - 1, log.tip.length
        cut = length > limit
        tail, tip = log.tail, log.tip
        if cut:
            tail, tip = self._cut(fork.writer, log, limit)
        packed = put_branch(tail) if tail else b""
        self.store.freeze(fork.writer, tip.length, put_fork(fork), packed, ours)
        self._changed(fork.writer)
        log.heads = {n: s for n, s in log.heads.items() if n <= limit}
        log.stops = [n for n in log.stops if n <= limit]
        log.loose = log.loose if log.loose <= limit else 0
        log.tip, log.tail, log.fork = tip, tail, fork
        log.opening = log.opening or self.openings(fork.opening)
        self.by_writer[fork.writer] = log
        return cut

    def segments(self, writer: PeerId, start: int) -> Iterator[Segment]:
        """Yield all we have of ``writer`` after ``start``, piece by piece."""
        while (log := self.by_writer.get(writer)) and start < log.tip.length:
            at = bisect_right(log.stops, start)
            end = log.stops[at] if at < len(log.stops) else log.tip.length
            entries = [entry for entry, _ in self.store.rows(writer, start, end)]
            tag = self.link(writer, start)[:TAG_BYTES]
            yield Segment(writer, start, tag, entries, self._rest(log, end))
            start = end

    def branch(self, writer: PeerId, position: int) -> Branch:
        """Return what leads from before the entry at ``position`` to a signed head."""
        log = self.by_writer[writer]
        at = bisect_left(log.stops, position)
        end = log.stops[at] if at < len(log.stops) else log.tip.length
        rows = self.store.rows(writer, position - 1, end)
        rest = self._rest(log, end)
        digests = (*(digest_of(entry) for entry, _ in rows), *rest.digests)
        return Branch(digests, rest.signature)

    def fork(self, writer: PeerId, position: int, other: Branch) -> Fork | None:
        """Return the proof that our log and ``other`` part at ``position``.

        None if they do not: one of them has been cut since we looked.

        Raises:
            ProtocolError: the writer did not sign ``other``.
        """
        if position > self.tip(writer).length or not other.digests:
            return None
        before, ours = self.link(writer, position - 1), self.branch(writer, position)
        if ours.digests[0] == other.digests[0]:
            return None
        opening = self.store.rows(writer, 0, 1)[0][0].body
        fork = Fork(writer, position, before, *ordered(ours, other), opening)
        fork.check(self.network, self.openings)
        return fork

    def _cut(self, writer: PeerId, log: Log, limit: int) -> tuple[Branch | None, Tip]:
        """Return what vouches for the end of a log cut at ``limit``, and that end."""
        signed = not limit or limit in log.heads
        tail = None if signed else self.branch(writer, limit + 1)
        gone = self.store.rows(writer, limit, log.tip.length)
        size = log.tip.size_bytes - sum(len(entry.body) for entry, _ in gone)
        return tail, Tip(limit, self.link(writer, limit), size)

    def _rest(self, log: Log, end: int) -> Branch:
        """Return what vouches for the entry at ``end``, a stop or the end."""
        if end in log.heads:
            return Branch((), log.heads[end])
        if log.tail is None:
            raise StorageError("a signature is missing; restore a backup")
        return log.tail

    def _changed(self, writer: PeerId) -> None:
        known = writer in self.by_writer
        self.changes.note(writer, self.item(writer) if known else None)
        self._root = None

    def _loaded(self, writer: PeerId, stored: Stored) -> Log:
        fork = get_fork(Reader(stored.fork)) if stored.fork else None
        last = self.store.rows(writer, max(stored.length - 2, 0), stored.length)
        first = self.store.rows(writer, 0, 1)
        opening = first[0][0].body if first else fork.opening if fork else b""
        link = last[-1][1] if last else first_link(self.network, writer)
        tip = Tip(stored.length, link, stored.size_bytes)
        size = stored.size_bytes - (len(last[-1][0].body) if last else 0)
        marked = tip.marked(Tip(stored.length - 1, b"", size))
        return Log(
            tip,
            self.openings(opening),
            dict(stored.heads),
            sorted(stored.heads),
            0 if marked or stored.length not in stored.heads else stored.length,
            fork,
            get_branch(Reader(stored.tail)) if stored.tail else None,
        )
