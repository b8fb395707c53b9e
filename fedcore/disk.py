"""One private folder that keeps what must survive a crash.

``Disk`` is the seam: production uses ``RealDisk``; tests use a disk that writes down
every call and then lives through a crash between any two of them.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedcore.errors import ConfigError, FedError, StorageError

Row = tuple[Any, ...]
TEMPORARY = ".tmp"
BUSY_S = 2.0  # a killed program's locks are gone well before

_FIXES = {
    errno.ENOSPC: "free some space on this disk, then resume",
    errno.EDQUOT: "free some of your disk quota, then resume",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), then resume",
    errno.EIO: "check the disk and its cable or mount, then resume",
    errno.EROFS: "make the disk writable, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "choose another folder: a part of this path is a file",
    errno.EEXIST: "choose another folder: this path is a file",
}
_SQLITE_FIXES = {
    sqlite3.SQLITE_FULL: _FIXES[errno.ENOSPC],
    sqlite3.SQLITE_IOERR: "check for a full or broken disk, then resume",
    sqlite3.SQLITE_READONLY: _FIXES[errno.EROFS],
    sqlite3.SQLITE_CANTOPEN: _FIXES[errno.EACCES],
    sqlite3.SQLITE_CORRUPT: "restore the folder from a backup, or start a new one",
    sqlite3.SQLITE_NOTADB: "this file is not ours: choose another folder",
    sqlite3.SQLITE_TOOBIG: "an event may hold 1 GB: send smaller updates",
}


class Connection(Protocol):
    """What ``sqlite3.Connection`` and ``apsw.Connection`` have in common."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Any: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Database:
    """SQL on one file; every statement is its own transaction unless one is begun.

    Raises:
        StorageError: from every method, when the disk fails.
        ConfigError: from every method, when another program holds the file.
    """

    connection: Connection
    name: str

    def run(self, sql: str, *values: Any) -> list[Row]:
        """Execute ``sql`` and return all rows; what it wrote is durable on return."""
        return list(self.rows(sql, *values))

    def rows(self, sql: str, *values: Any) -> Iterator[Row]:
        """Execute ``sql`` and yield its rows one by one."""
        with told(f"database {self.name}"):
            for row in self.connection.execute(sql, values):  # noqa: UP028
                yield row  # "yield from" would close a cursor of a closed connection

    def close(self) -> None:
        """Close the file and release its lock."""
        with told(f"database {self.name}"):
            self.connection.close()


class Disk(Protocol):
    """A folder whose files are replaced whole or not at all.

    Raises:
        StorageError: from every method; the last good state of the file is intact.
    """

    def names(self) -> Sequence[str]:
        """Return the names of all files, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return all bytes of a file."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of a file; durable on return, never half there."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; a crash may bring it back."""
        ...

    def database(self, name: str) -> Database:
        """Open an SQLite file, new if there is none."""
        ...


@dataclass(frozen=True)
class RealDisk:
    """A ``Disk`` on the file system; made private to its owner if it is new.

    Attributes:
        folder: where the files are; made at the first write.
        one_thread: whether a database is used by the thread alone that opened it.
    """

    folder: Path
    one_thread: bool = True

    def names(self) -> Sequence[str]:
        with told(f"folder {self.folder}"):
            if not self.folder.exists():
                return []
            return sorted(p.name for p in self.folder.iterdir() if p.is_file())

    def read(self, name: str) -> bytes:
        with told(f"read {self.folder / name}"):
            return (self.folder / name).read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        with told(f"write {self.folder / name}"):
            draft = name + TEMPORARY
            try:
                self.write(draft, data)
                self.rename(draft, name)
            except OSError:
                self.remove(draft)  # on a full disk its space is needed
                raise
            self.sync_names()

    def remove(self, name: str) -> None:
        with told(f"remove {self.folder / name}"):
            (self.folder / name).unlink(missing_ok=True)

    def database(self, name: str) -> Database:
        with told(f"open {self.folder / name}"):
            self._make()
            path = self.folder / name
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            return Database(self.connect(path), name)

    def connect(self, path: Path) -> Connection:
        """Return an SQLite connection that commits after every statement."""
        return sqlite3.connect(
            path,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=self.one_thread,
        )

    def write(self, name: str, data: bytes) -> None:
        """Write and flush a whole file; not atomic: the first half of ``replace``."""
        self._make()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(self.folder / name, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        """Give file ``old`` the name ``new``; durable after ``sync_names``."""
        (self.folder / old).replace(self.folder / new)

    def sync_names(self) -> None:
        """Make renames durable; needed on file systems that delay them."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn what the system says into our errors, with the way out."""
    try:
        yield
    except FedError:
        raise
    except sqlite3.Error as error:
        raise _sqlite_error(doing, error) from error
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, "check the disk and the path, then resume")
        raise StorageError(f"{doing}: {error.strerror or error}; {fix}") from error


def _sqlite_error(doing: str, error: sqlite3.Error) -> FedError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail bits
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConfigError(
            f"{doing}: another program is using this folder; stop it, or choose "
            "another folder"
        )
    fix = _SQLITE_FIXES.get(code, "check the disk, then resume")
    return StorageError(f"{doing}: {error}; {fix}")
