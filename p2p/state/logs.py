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
yet be cut off by a fork or a removal, and then the older counts again. What is part of
the state, of all this, is in ``p2p.state.shown``.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from fedcore.errors import StorageError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.state.bodies import said_again
from p2p.state.chain import TAG_BYTES, WRITERS, Entry, Kind, Tip, digest_of, first_link
from p2p.state.encoding import get_branch, get_fork, put_branch, put_fork
from p2p.state.held import Log, News, Pen
from p2p.state.segments import Branch, Fork, Openings, Segment, ordered
from p2p.state.shown import CHUNK, Shown
from p2p.state.store import LogStore, Row, Stored

QUOTA_BYTES = 20 * 10**9


class Logs(Shown):
    """The logs of one network, by writer; every change goes to the store first."""

    def __init__(
        self,
        network: str,
        store: LogStore,
        openings: Openings,
        own: Iterable[PeerId] = (),
        quota_bytes: int = QUOTA_BYTES,
    ) -> None:
        super().__init__(network, store, quota_bytes)
        self.openings = openings
        self.own.update(own)
        for writer, stored in store.load().items():
            log = self._loaded(writer, stored)
            self._settle(writer, log, 0)
            self._hear(writer, log)
        self._ruling.stale |= len(self.by_writer) > WRITERS
        self._rule()

    def add(self, *news: News) -> list[News]:
        """Add what ``p2p.state.checking`` has found good; return what had a seat."""
        fresh = [new for new in news if new.writer not in self.by_writer]
        seated = self._seated({n.writer: self._empty(n) for n in fresh})
        for new in fresh:
            if new.writer not in seated and not new.before.length:
                self._ruling.turn_away(new.writer, new.rows[0][1])
        taken = [n for n in news if n.writer in seated or n.writer in self.by_writer]
        for new in taken:
            self._add(new)
            self._ruling.hear(new.opening, new.before.length, new.rows)
        self._rule()
        return taken

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
        """Take in a fork that was checked; return whether that changed anything.

        Args:
            fork: proof that its writer told two stories.
            ours: what is cut off was said by us, and is to be said again.
        """
        log = self.by_writer.get(fork.writer)
        if log is None:
            log = Log(self.tip(fork.writer), self.openings(fork.opening), fork=fork)
            if not self._seated({fork.writer: log}):
                if not log.spoilt:  # else we forget the proof, and either may come
                    opening = Entry(Kind.OPENING, fork.opening)
                    self._ruling.turn_away(fork.writer, log.tip.plus(opening).link)
                return False
        elif log.fork and log.fork.position <= fork.position:
            return False
        limit, before = fork.position - 1, log.disk_bytes
        tail, tip = log.tail, log.tip
        if tip.length > limit:
            tail, tip = self._cut(fork.writer, log, limit)
        packed, owed = put_branch(tail) if tail else b"", list[Entry]()
        if ours:
            gone = self.store.rows(fork.writer, tip.length, log.tip.length)
            owed = [said_again(entry, link) for entry, link in gone]
        self.store.freeze(fork.writer, tip.length, put_fork(fork), packed, owed)
        self._changed(fork.writer)
        log.heads = {n: s for n, s in log.heads.items() if n <= limit}
        log.stops = [n for n in log.stops if n <= limit]
        log.loose = log.loose if log.loose <= limit else 0
        log.tip, log.tail, log.fork = tip, tail, fork
        log.opening = log.opening or self.openings(fork.opening)
        self._settle(fork.writer, log, before)
        self._ruling.forget(fork.writer, limit)
        if log.spoilt:  # its seat is free for those who had none
            self._ruling.turned_away.clear()
            self._ruling.stale |= bool(self._ruling.unseated)
        self._rule()
        return True

    def segments(self, writer: PeerId, start: int) -> Iterator[Segment]:
        """Yield all we show of ``writer`` after ``start``, piece by piece."""
        while (log := self.by_writer.get(writer)) and start < log.shown.length:
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
        gone_bytes = sum(
            len(entry.body)
            for start in range(limit, log.tip.length, CHUNK)  # all may be gigabytes
            for entry, _ in self.store.rows(writer, start, start + CHUNK)
        )
        size_bytes = log.tip.size_bytes - gone_bytes
        return tail, Tip(limit, self.link(writer, limit), size_bytes)

    def _rest(self, log: Log, end: int) -> Branch:
        """Return what vouches for the entry at ``end``, a stop or the end."""
        if end in log.heads:
            return Branch((), log.heads[end])
        if log.tail is None:
            raise StorageError("a signature is missing; restore a backup")
        return log.tail

    def _add(self, new: News) -> None:
        log = self.by_writer.get(new.writer) or self._empty(new)
        signed = not new.rest.digests
        heads = {new.tip.length: new.rest.signature} if signed else {}
        dropped = [log.loose] if log.loose else []
        before, disk_bytes = new.before.length, log.disk_bytes
        self.store.append(new.writer, before, new.rows, heads, dropped)
        if not signed:
            self.store.set_tail(new.writer, put_branch(new.rest))
        self._changed(new.writer)
        for position in dropped:
            del log.heads[position]
            log.stops.pop()  # the newest, as it is loose
        log.heads |= heads
        log.stops += heads
        log.loose = new.tip.length if new.loose and signed else 0
        log.tip, log.opening = new.tip, new.opening
        log.tail = None if signed else new.rest
        self._settle(new.writer, log, disk_bytes)

    def _empty(self, new: News) -> Log:
        return Log(Tip(0, first_link(self.network, new.writer)), new.opening)

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
