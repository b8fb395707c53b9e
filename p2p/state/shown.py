"""Which part of the logs that we hold is part of the state.

Of a log whose writer was sent away only what the removal keeps is *shown*: told on,
hashed and counted. What we hold beyond it stays, as the removal may cease to count;
more is not taken. Of more logs than there are seats (``p2p.state.seats``) some are let
go, but for our own: those are kept, and nothing of them is shown.

Disk: when half the quota is used, a log grows only while it has less than its share of
a quarter, so that who writes much cannot keep out who writes little. Logs of admins
have the other quarter: what they say of removals is to be heard when it is needed most.
"""

from collections.abc import Callable, Collection, Mapping

from fedcore.names import PeerId
from p2p.identity.removals import Standing
from p2p.state.chain import TAG_BYTES, WRITERS, Tip, first_link, raw_of
from p2p.state.changes import Changes
from p2p.state.encoding import Item
from p2p.state.held import Log
from p2p.state.roots import Roots
from p2p.state.ruling import Ruling
from p2p.state.store import LogStore

CHUNK = 256  # entries read at once


class Shown:
    """Logs by writer, and how much of each counts; what adds to them is ``Logs``."""

    def __init__(self, network: str, store: LogStore, quota_bytes: int) -> None:
        self.network, self.store = network, store
        self.quota_bytes, self.held_bytes = quota_bytes, 0
        self.changes, self._roots = Changes(), Roots(network)
        self._ruling = Ruling()
        self._watchers: list[Callable[[PeerId], None]] = []
        self.by_writer: dict[PeerId, Log] = {}

    @property
    def own(self) -> set[PeerId]:
        """Writers of our own logs."""
        return self._ruling.own

    @property
    def standing(self) -> Standing:
        """Who was sent away."""
        return self._ruling.standing

    def keep(self, writer: PeerId) -> None:
        """Never let go of this log: it is ours."""
        self._ruling.own.add(writer)

    def watch(self, moved: Callable[[PeerId], None]) -> None:
        """Have ``moved`` told of a writer when entries count no more, or again."""
        self._watchers.append(moved)

    def root(self) -> bytes:
        """Return 32 bytes that are equal exactly where what is shown of all logs is."""
        return self._roots.root()

    def writers(self) -> list[PeerId]:
        """Return whose logs are part of the state, sorted."""
        return sorted(self.by_writer.keys() - self._ruling.unseated)

    def tip(self, writer: PeerId) -> Tip:
        """Return where the log of ``writer`` ends; an empty one begins at h_0."""
        log = self.by_writer.get(writer)
        return log.tip if log else Tip(0, first_link(self.network, writer))

    def shown(self, writer: PeerId) -> Tip:
        """Return where that part of a log ends that is part of the state."""
        log = self.by_writer.get(writer)
        return log.shown if log else Tip(0, first_link(self.network, writer))

    def bound(self, writer: PeerId) -> int | None:
        """Return how many entries of ``writer`` are part of the state; None if all."""
        log = self.by_writer.get(writer)
        return log.bound if log else None

    def takes(self, writer: PeerId, first: bytes = b"") -> bool:
        """Return whether there is room for more of ``writer``.

        Args:
            writer: of the log.
            first: the link of its opening, if that is known.
        """
        log = self.by_writer.get(writer)
        if log is None:
            away = self._ruling.turned_away.get(writer)
            return away is None or first not in (b"", away)
        fair = log.disk_bytes < self.quota_bytes // 4 // len(self.by_writer)
        admin = log.opening is not None and log.opening.role == "admin"
        free = self.held_bytes < self.quota_bytes // 4 * 3 if admin else not self.full
        return not log.closed and (fair or writer in self.own or free)

    def held_up(self) -> set[PeerId]:
        """Return whose logs do not grow here, for want of room."""
        logs = self.by_writer.items() if self.full else ()
        return {w for w, log in logs if not log.closed and not self.takes(w)}

    @property
    def full(self) -> bool:
        """Whether half the quota is used, and logs that are long do not grow."""
        return self.held_bytes >= self.quota_bytes // 2

    def link(self, writer: PeerId, position: int) -> bytes:
        """Return the link at ``position``, at most the log's length."""
        tip = self.tip(writer)
        if position == tip.length:
            return tip.link
        if not position:
            return first_link(self.network, writer)
        return self.store.link(writer, position)

    def item(self, writer: PeerId) -> Item:
        """Return how far we show ``writer``."""
        tip, log = self.shown(writer), self.by_writer.get(writer)
        seen = log.fork if log and writer not in self._ruling.unseated else None
        fork = seen.position if seen else 0
        return Item(writer, tip.length, tip.link[:TAG_BYTES], fork)

    def differs(self, item: Item) -> bool:
        """Return whether ``item`` is about another log than ours, as far as we know."""
        if item.length > self.tip(item.writer).length:
            return False
        return self.link(item.writer, item.length)[:TAG_BYTES] != item.tag

    def _hear(self, writer: PeerId, log: Log) -> None:
        """Take note of all that a log says of removals."""
        if log.opening is None or log.opening.role != "admin":
            return
        for start in range(0, log.tip.length, CHUNK):
            rows = self.store.rows(writer, start, start + CHUNK)
            self._ruling.hear(log.opening, start, rows)

    def _show(self, writer: PeerId) -> None:
        """Work out where the part of a log ends that is shown."""
        log, last = self.by_writer[writer], self.by_writer[writer].shown.length
        bound = log.tip.length if log.bound is None else log.bound
        log.shown = log.tip
        if bound < log.tip.length:
            log.shown = Tip(bound, self.link(writer, bound))
        item = self.item(writer)
        if writer in self._ruling.unseated:
            self._roots.drop(raw_of(writer))
        else:
            self._roots.put(raw_of(writer), item.length, item.fork, log.shown.link)
        if log.shown.length < last:
            self._moved(writer)

    def _moved(self, writer: PeerId) -> None:
        for watcher in self._watchers:
            watcher(writer)

    def _settle(self, writer: PeerId, log: Log, before_bytes: int) -> None:
        """Put a log that has changed in its place."""
        self.by_writer[writer] = log
        self.held_bytes += log.disk_bytes - before_bytes
        log.bound = self._ruling.bound(log.opening)
        self._show(writer)

    def _seated(self, fresh: Mapping[PeerId, Log]) -> Collection[PeerId]:
        """Return which of these new logs have a seat; let others go that have none now.

        Ours have a place here in any case.
        """
        if not fresh or len(self.by_writer) + len(fresh) <= WRITERS:
            return fresh.keys()
        out = set(self._ruling.judge({**self.by_writer, **fresh}))
        self._let_go(out)
        for writer in self.own & self.by_writer.keys():
            self._bind(writer)
        return fresh.keys() - (out - self.own)

    def _let_go(self, writers: Collection[PeerId]) -> None:
        for writer in writers:
            if writer in self.by_writer and writer not in self.own:
                self.store.drop(writer)
                self._changed(writer)
                self.held_bytes -= self.by_writer.pop(writer).disk_bytes
                self._roots.drop(raw_of(writer))
                self._ruling.forget(writer, 0)
                self._moved(writer)

    def _rule(self) -> None:
        """Judge anew if admins have said something that changes who may be here."""
        if not self._ruling.stale:
            return
        self._let_go(self._ruling.judge(self.by_writer))
        self._ruling.stale = False
        self._ruling.turned_away.clear()
        for writer in self.by_writer:
            self._bind(writer)

    def _bind(self, writer: PeerId) -> None:
        """Show as much of a log as may be shown now."""
        log = self.by_writer[writer]
        bound = self._ruling.bound(log.opening)
        if bound != log.bound:
            self._changed(writer)
            log.bound = bound
            self._show(writer)
            self._moved(writer)

    def _changed(self, writer: PeerId) -> None:
        known = writer in self.by_writer
        self.changes.note(writer, self.item(writer) if known else None)
