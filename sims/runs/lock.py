"""One process at a time in a folder; the lock ends with the process, kill -9 too."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcore.errors import ConfigError

FILE = "lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep ``folder`` for this process until the block ends, or the process does.

    Raises:
        ConfigError: another process is at work in it.
    """
    handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _taken(handle):
            raise ConfigError(
                f"another process is at work in {folder}: wait for it, or stop it"
            )
        yield
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Tell whether a process is at work in ``folder``."""
    try:
        handle = os.open(folder / FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _taken(handle)
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
