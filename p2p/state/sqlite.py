"""Logs in one SQLite file: what is committed survives kill -9 and power loss.

The log of SQLite is written ahead and flushed at every commit. A replica commits before
it lets anybody know of an entry of its own; what others wrote is committed together
now and then, because it can be asked for again.

    crash                          what is found
    before a commit                everything up to the commit before it
    between the commit and a send  an entry that nobody has heard of; it will be sent
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedcore.disk import Database, Disk
from fedcore.errors import ConfigError, StorageError
from fedcore.names import PeerId
from p2p.state.chain import Entry, Kind
from p2p.state.store import Row, Stored

FILE = "state.db"
ROOM, ROOM_BYTES = "room", 1 << 20  # a file that is written to see whether one can
SCHEMA = 1
APPLICATION = int.from_bytes(b"FEDS", "big")

_TABLES = (
    """CREATE TABLE log (id INTEGER PRIMARY KEY, writer TEXT NOT NULL UNIQUE,
       fork BLOB NOT NULL, tail BLOB NOT NULL) STRICT""",
    """CREATE TABLE entry (log INTEGER, position INTEGER, kind INTEGER NOT NULL,
       body BLOB NOT NULL, link BLOB NOT NULL, PRIMARY KEY (log, position))
       STRICT, WITHOUT ROWID""",
    """CREATE TABLE head (log INTEGER, position INTEGER, signature BLOB NOT NULL,
       PRIMARY KEY (log, position)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE owed (id INTEGER PRIMARY KEY AUTOINCREMENT,
       kind INTEGER NOT NULL, body BLOB NOT NULL) STRICT""",
    """CREATE TABLE own (id INTEGER PRIMARY KEY AUTOINCREMENT,
       seed BLOB NOT NULL, opening BLOB NOT NULL) STRICT""",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
)


@dataclass
class SqliteLogStore:
    """A ``LogStore`` on disk, for one program at a time.

    Attributes:
        disk: the folder; made private to its owner, as keys are in it.
        name: of the file.

    Raises:
        ConfigError: the file is in use, not ours, or written by a newer Fedcore.
        StorageError: the disk failed, or what is on it is damaged.
    """

    disk: Disk
    name: str = FILE
    _database: Database = field(init=False, repr=False)
    _ids: dict[PeerId, int] = field(default_factory=dict, init=False, repr=False)
    _begun: bool = field(default=False, init=False, repr=False)
    _failed: bool = field(default=False, init=False, repr=False)
    _waiting_bytes: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._database = self.disk.database(self.name)
        database = self._database
        database.run("PRAGMA locking_mode = EXCLUSIVE")
        fresh = not database.run("SELECT count(*) FROM sqlite_master")[0][0]
        if not fresh:
            self._check_ours()
        database.run("PRAGMA journal_mode = WAL")
        database.run("PRAGMA synchronous = FULL")
        database.run("BEGIN EXCLUSIVE")  # two programs cannot both pass here
        for statement in _TABLES if fresh else ():
            database.run(statement)
        database.run("COMMIT")
        rows = database.run("SELECT writer, id FROM log")
        self._ids = dict(rows)

    def load(self) -> dict[PeerId, Stored]:
        heads: dict[int, dict[int, bytes]] = {}
        for log, position, signature in self._run("SELECT * FROM head"):
            heads.setdefault(log, {})[position] = signature
        sizes = {
            log: (count, last, size)
            for log, count, last, size in self._run(
                "SELECT log, count(*), max(position), sum(length(body)) "
                "FROM entry GROUP BY log"
            )
        }
        found = {}
        for log, writer, fork, tail in self._run("SELECT * FROM log"):
            count, last, size = sizes.get(log, (0, 0, 0))
            if count != last:
                raise StorageError(
                    f"the log of {writer} has {count} entries up to number {last}; "
                    "restore the folder from a backup"
                )
            found[writer] = Stored(count, size, heads.get(log, {}), fork, tail)
        return found

    def rows(self, writer: PeerId, start: int, stop: int) -> list[Row]:
        found = self._run(
            "SELECT kind, body, link FROM entry WHERE log = ? AND position > ? "
            "AND position <= ? ORDER BY position",
            *(self._ids[writer], start, stop),
        )
        return [(Entry(Kind(kind), body), link) for kind, body, link in found]

    def link(self, writer: PeerId, position: int) -> bytes:
        where = "SELECT link FROM entry WHERE log = ? AND position = ?"
        link: bytes = self._run(where, self._ids[writer], position)[0][0]
        return link

    def append(
        self,
        writer: PeerId,
        start: int,
        rows: Sequence[Row],
        heads: dict[int, bytes],
        dropped: Sequence[int],
    ) -> None:
        log = self._log(writer)
        for position, (entry, link) in enumerate(rows, start + 1):
            row = (log, position, int(entry.kind), entry.body, link)
            self._change("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", *row)
            self._waiting_bytes += len(entry.body)
        for position in dropped:
            where = "DELETE FROM head WHERE log = ? AND position = ?"
            self._change(where, log, position)
        for position, signature in heads.items():
            insert = "INSERT OR REPLACE INTO head VALUES (?, ?, ?)"
            self._change(insert, log, position, signature)

    def freeze(
        self,
        writer: PeerId,
        length: int,
        fork: bytes,
        tail: bytes,
        owed: Sequence[Entry],
    ) -> None:
        log = self._log(writer)
        for entry in owed:
            insert = "INSERT INTO owed (kind, body) VALUES (?, ?)"
            self._change(insert, int(entry.kind), entry.body)
        for table in ("entry", "head"):
            where = f"DELETE FROM {table} WHERE log = ? AND position > ?"  # noqa: S608
            self._change(where, log, length)
        self._change("UPDATE log SET fork = ?, tail = ? WHERE id = ?", fork, tail, log)

    def drop(self, writer: PeerId) -> None:
        log = self._ids.pop(writer)
        for table, key in (("entry", "log"), ("head", "log"), ("log", "id")):
            self._change(f"DELETE FROM {table} WHERE {key} = ?", log)  # noqa: S608

    def set_tail(self, writer: PeerId, tail: bytes) -> None:
        self._change("UPDATE log SET tail = ? WHERE id = ?", tail, self._log(writer))

    def owed(self) -> list[Entry]:
        rows = self._run("SELECT kind, body FROM owed ORDER BY id")
        return [Entry(Kind(kind), body) for kind, body in rows]

    def settle(self, count: int) -> None:
        first = "SELECT id FROM owed ORDER BY id LIMIT ?"
        self._change(f"DELETE FROM owed WHERE id IN ({first})", count)  # noqa: S608

    def keep_key(self, seed: bytes, opening: bytes) -> None:
        self._change("INSERT INTO own (seed, opening) VALUES (?, ?)", seed, opening)

    def own(self) -> list[tuple[bytes, bytes]]:
        rows = self._run("SELECT seed, opening FROM own ORDER BY id")
        return [(seed, opening) for seed, opening in rows]

    def commit(self, least_bytes: int = 0) -> None:
        if self._waiting_bytes < least_bytes:
            return
        if self._begun or self._failed:
            self._do("COMMIT")
        self._begun, self._waiting_bytes = False, 0

    def close(self) -> None:
        """Commit, unless a write has failed, and release the file."""
        if not self._failed:
            self.commit()
        self._database.close()

    def reopen(self) -> None:
        self._database.close()
        self._begun, self._failed, self._waiting_bytes = False, False, 0
        self._open()

    def check_room(self) -> None:
        self.disk.replace(ROOM, bytes(ROOM_BYTES))
        self.disk.remove(ROOM)

    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.run(sql, *values)

    def _change(self, sql: str, *values: object) -> None:
        if not self._begun:
            self._do("BEGIN IMMEDIATE")
            self._begun = True
        self._do(sql, *values)

    def _do(self, sql: str, *values: object) -> None:
        """Execute ``sql``; after a failure nothing more is written, nor committed."""
        if self._failed:
            raise StorageError(f"{self.name}: a write has failed; start again")
        self._failed = True
        self._database.run(sql, *values)
        self._failed = False

    def _log(self, writer: PeerId) -> int:
        """Return the number of the log of ``writer``; make it if there is none."""
        if writer not in self._ids:
            number = max(self._ids.values(), default=0) + 1
            self._change("INSERT INTO log VALUES (?, ?, x'', x'')", number, writer)
            self._ids[writer] = number
        return self._ids[writer]

    def _check_ours(self) -> None:
        application = self._database.run("PRAGMA application_id")[0][0]
        schema = self._database.run("PRAGMA user_version")[0][0]
        if application != APPLICATION:
            raise ConfigError(f"{self.name} is not a state of Fedcore; move it away")
        if schema > SCHEMA:
            raise ConfigError(
                f"{self.name} has schema {schema} and this Fedcore reads up to "
                f"{SCHEMA}: a newer Fedcore wrote it; upgrade"
            )
