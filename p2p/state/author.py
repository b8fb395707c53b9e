"""Our own logs: which one we write, and when it is safe to.

Two entries signed for one position are the end of a log, so a peer must never go on
from a position that it does not know to be its last. It may not know: its disk was
restored from a backup, or copied to another machine. Hence:

- After a start a log may be written once the peers that we can reach were asked how
  far they know it, at least one has answered, and what they had more was adopted.
- Who must write before that, or all alone, begins another log, under a fresh key that
  the peer's own key vouches for. Nobody else has that key, so nothing can go wrong.
- A log that is full, or was begun with an invite that we use no more, is left as it is.
- If two copies of a disk did go on from one position, the log freezes there on every
  replica. What either copy had written since, it writes again in a log of its own.

What stays possible takes two faults at once: a backup older than what only a peer holds
that cannot be reached when we go on; or a copied disk that is put back to a backup
before its fork was found. Then the log freezes, and what was in it beyond the backup
is lost.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ConfigError
from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.identity.openings import open_subkey
from p2p.state.chain import LOG_BYTES, LOG_ENTRIES, WRITERS, Entry, Kind, check_form
from p2p.state.held import News, Pen
from p2p.state.logs import Logs
from p2p.state.said import MAY

ENOUGH = 5  # peers that were asked; more know no better
ROOM, ROOM_BYTES = 1 << 12, 1 << 28  # for one more batch; else a log is full


@dataclass
class Author:
    """Writes for one peer, in one log after another.

    Attributes:
        key: of the peer.
        opening: of its first log.
        fresh_key: makes the key of a new log.
        wall: seconds since 1970, for openings.
        pens: all our logs, oldest first.
        asked: peers that have told all they know, since the start.
        safe: the writers whose last position we know.
    """

    logs: Logs
    key: Key
    opening: bytes
    fresh_key: Callable[[], Key]
    wall: Callable[[], float]
    pens: list[Pen] = field(default_factory=list, init=False)
    asked: set[PeerId] = field(default_factory=set, init=False)
    safe: set[PeerId] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.pens.append(Pen(self.key, self.logs.openings(self.opening)))
        for seed, opening in self.logs.store.own():
            self.pens.append(Pen(Key(seed), self.logs.openings(opening)))

    @property
    def writers(self) -> Collection[PeerId]:
        """The names of all our logs."""
        return [pen.writer for pen in self.pens]

    @property
    def pen(self) -> Pen:
        """The log to go on with: the newest that is not closed, if there is one."""
        whole = [pen for pen in self.pens if not self._closed(pen)]
        seated = [pen for pen in whole if self.logs.bound(pen.writer) != 0]
        return (seated or whole or self.pens)[-1]

    @property
    def ready(self) -> bool:
        """Whether we may write without beginning another log."""
        return self.pen.writer in self.safe and not self._closed(self.pen)

    def begin(self) -> list[News]:
        """Take it as certain that no life before this one wrote anything."""
        return self._trust(self.pens[0])

    def heard(self, peer: PeerId, up: Collection[PeerId]) -> list[News]:
        """``peer`` has told all it knows, and it is in the logs; ``up`` can be asked.

        Returns:
            What was written because of that: the opening, if the log was empty.
        """
        self.asked.add(peer)
        enough = self.asked.issuperset(up) or len(self.asked) >= ENOUGH
        if not enough or self.ready or self._closed(self.pen):
            return []
        return self._trust(self.pen)

    def check_kinds(self, kinds: Iterable[Kind]) -> None:
        """Raise ConfigError if one of ``kinds`` would not count in our role."""
        role = self.pens[0].opening.role
        wrong = sorted(kind.name for kind in set(kinds) - MAY[role])
        if wrong:
            raise ConfigError(
                f"{' and '.join(wrong)}: a member whose role is {role} cannot write "
                "that; ask an admin to, or for an invite with another role"
            )

    def prepare(self) -> list[News]:
        """Make ready: begin another log if need be; return its opening, added.

        Raises:
            ConfigError: the network is full, and no log of ours has a seat in it.
        """
        full = not self._closed(self.pen) and self.logs.bound(self.pen.writer) == 0
        said = [] if self.ready or full else self._another()
        if not self.ready or self.logs.bound(self.pen.writer) == 0:
            raise ConfigError(
                f"the network is full: of {WRITERS} seats for logs none is left for "
                "this peer; ask an admin to send away who floods it, or for an invite "
                "of your own"
            )
        return said

    def write(self, entries: Sequence[Entry]) -> list[News]:
        """Return ``entries`` signed and added to the logs, not yet committed.

        Raises:
            ConfigError: the network is full.
            ProtocolError: one is too long, or an opening, or our log is full; nothing
                is written.
        """
        for entry in entries:
            check_form(entry, position=2)
        said = self.prepare()
        news = self.logs.say(self.pen, entries)
        for new in news:
            self.logs.add(new)
        return said + news

    def _another(self) -> list[News]:
        """Begin another log and return its opening, added."""
        key = self.fresh_key()
        opening = open_subkey(self.opening, self.key, key, self.wall())
        self.logs.store.keep_key(key.seed, opening)
        self.pens.append(Pen(key, self.logs.openings(opening)))
        self.logs.keep(key.peer)
        return self._trust(self.pens[-1], opening)

    def _trust(self, pen: Pen, opening: bytes = b"") -> list[News]:
        self.safe.add(pen.writer)
        if self.logs.tip(pen.writer).length:
            return []
        if not opening:
            opening = self._opening_of(pen)
        news = self.logs.say(pen, [Entry(Kind.OPENING, opening)])
        for new in news:
            self.logs.add(new)
        return news

    def _opening_of(self, pen: Pen) -> bytes:
        kept = [self.opening, *(opening for _, opening in self.logs.store.own())]
        return kept[self.pens.index(pen)]

    def _closed(self, pen: Pen) -> bool:
        """Return whether nothing more of ours can count in this log."""
        log = self.logs.by_writer.get(pen.writer)
        if log is None:
            return False
        mine = self.pens[0].opening
        other = log.opening is None or log.opening.lineage != mine.lineage
        entries, size_bytes = log.tip.length + ROOM, log.tip.size_bytes + ROOM_BYTES
        full = entries > LOG_ENTRIES or size_bytes > LOG_BYTES
        return log.fork is not None or other or full
