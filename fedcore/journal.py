"""A coordinator's journal on disk: what is recorded survives kill -9 and power loss.

Events go into an SQLite file (write-ahead log, flushed at every commit) before they
are acted on; now and then the whole desk goes into a checkpoint, and the events
before it are dropped. A run resumes from the newest whole checkpoint and the events
after it, which the coordinator puts through the same pure rules, bit for bit.

    order of writes                         a crash just after it
    journal.db is made, configuration in    the run begins anew: nothing had happened
    desk 0                                  the run begins from it
    event n, then it is acted on            event n is acted on at resume
    desk n, then older desks are removed    events before n are there and not needed
    events before the older desk go         nothing is lost

Simulations can set ``payloads`` to False: no event is kept, only checkpoints, because
what simulated clients answer can be computed again to the same bits.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fedcore.checkpoint import Checkpoints, pack, unpack
from fedcore.desk import Desk, Event
from fedcore.disk import Database, Disk
from fedcore.errors import ConfigError, StorageError
from fedcore.hints import hint_of

FILE = "journal.db"
SCHEMA = 1
APPLICATION = int.from_bytes(b"FEDC", "big")  # marks the file as ours for SQLite

_TABLES = (
    "CREATE TABLE event (serial INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
    "CREATE TABLE run (fingerprint TEXT NOT NULL) STRICT",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
)


@dataclass
class FileJournal:
    """A ``fedcore.coordinator.Journal`` in one folder, for one coordinator at a time.

    Attributes:
        disk: the folder.
        fingerprint: of the configuration, such as its digest; a run resumes only
            under the configuration that it began with.
        payloads: keep every event with its answers. False keeps checkpoints only.
        every_folds: folds between checkpoints, >= 1.
        gap_s: least time between checkpoints, in seconds of ``clock``, so that fast
            rounds are not slowed down by them.
        clock: a steady clock, in seconds.
    """

    disk: Disk
    fingerprint: str
    payloads: bool = True
    every_folds: int = 1
    gap_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _database: Database | None = field(default=None, init=False, repr=False)
    _folds: int = field(default=0, init=False, repr=False)
    _saved_s: float = field(default=-inf, init=False, repr=False)
    _saved_serial: int = field(default=-1, init=False, repr=False)

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], Iterator[Event]]:
        """Return the newest checkpoint and the events after it; ``begin`` if new.

        Raises:
            ConfigError: the folder is in use, belongs to another configuration or to
                a newer Fedcore, or the strategy's state cannot be stored.
            StorageError: the disk failed, or what is on it is damaged.
        """
        self._folds, self._saved_s, self._saved_serial = 0, -inf, -1
        self._database = self.disk.database(FILE)
        fresh = self._claim(self._database)
        checkpoints = Checkpoints(self.disk)
        if fresh and checkpoints.serials():
            raise StorageError(
                f"checkpoints but no {FILE} in this folder; put it back, or start a "
                "new run in another folder"
            )
        checkpoints.sweep()
        hint = hint_of(begin)
        desk = checkpoints.newest(hint)
        if desk is None:
            self.save(begin)  # and read back: what cannot be resumed never starts
            desk = checkpoints.newest(hint) or begin
        self._saved_s, self._saved_serial = -inf, desk.serial
        return desk, self._events(self._database, desk.serial)

    def record(self, serial: int, event: Event) -> None:
        """Make ``event`` durable, unless only checkpoints are kept.

        Raises:
            StorageError: the disk is full or broken; the event is not in the journal.
        """
        if self.payloads:
            body = pack("event", event)
            self._open.run("INSERT INTO event VALUES (?, ?)", serial, body)

    def folded(self, desk: Desk[Any, Any]) -> None:
        """Store ``desk`` if enough folds and enough time have passed.

        After ``open`` the time does not count: lives that are all shorter than
        ``gap_s`` still get on.
        """
        self._folds += 1
        waited_s = self.clock() - self._saved_s
        if self._folds >= self.every_folds and waited_s >= self.gap_s:
            self.save(desk)

    def save(self, desk: Desk[Any, Any]) -> None:
        """Store ``desk`` now, and drop what it makes unnecessary.

        Raises:
            StorageError: the disk is full or broken; the last good state is intact.
        """
        if desk.serial == self._saved_serial:
            return
        oldest = Checkpoints(self.disk).save(desk)
        self._open.run("DELETE FROM event WHERE serial < ?", oldest)
        self._folds, self._saved_s, self._saved_serial = 0, self.clock(), desk.serial

    def close(self) -> None:
        """Release the folder; ``open`` may be called again."""
        if self._database is not None:
            self._database.close()
        self._database = None

    @property
    def _open(self) -> Database:
        if self._database is None:
            raise StorageError("the journal is closed: call open() first")
        return self._database

    def _claim(self, database: Database) -> bool:
        """Take the folder for us alone; return whether its journal is new."""
        database.run("PRAGMA locking_mode = EXCLUSIVE")
        tables = database.run("SELECT count(*) FROM sqlite_master")[0][0]
        if tables:
            _check_ours(database)
        database.run("PRAGMA journal_mode = WAL")
        database.run("PRAGMA synchronous = FULL")
        database.run("BEGIN EXCLUSIVE")  # two coordinators cannot both pass here
        if not tables:
            for statement in _TABLES:
                database.run(statement)
            database.run("INSERT INTO run VALUES (?)", self.fingerprint)
        database.run("COMMIT")
        self._check_same(database)
        return not tables

    def _check_same(self, database: Database) -> None:
        stored = database.run("SELECT fingerprint FROM run")[0][0]
        if stored != self.fingerprint:
            raise ConfigError(
                f"this folder holds a run with configuration {stored!r}, and you asked "
                f"for {self.fingerprint!r}; choose another folder, or go back to the "
                "old configuration"
            )

    def _events(self, database: Database, serial: int) -> Iterator[Event]:
        rows = database.rows(
            "SELECT serial, body FROM event WHERE serial >= ? ORDER BY serial", serial
        )
        for found, body in rows:
            if found != serial:
                raise StorageError(
                    f"the journal lacks events {serial} to {found - 1}; restore the "
                    "folder from a backup"
                )
            yield unpack("event", Event, body)
            serial += 1


def _check_ours(database: Database) -> None:
    application = database.run("PRAGMA application_id")[0][0]
    schema = database.run("PRAGMA user_version")[0][0]
    if application != APPLICATION:
        raise ConfigError(f"{FILE} is not a journal of Fedcore; choose another folder")
    if schema > SCHEMA:
        raise ConfigError(
            f"{FILE} has schema {schema} and this Fedcore reads up to {SCHEMA}: a "
            "newer Fedcore wrote it; upgrade"
        )
