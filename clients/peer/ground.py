"""What a peer's machines stand on: where they keep things, and the clock and dice."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clients.peer.home import SHELF
from fedcore.disk import RealDisk
from p2p.content.space import FolderSpace, Space
from p2p.members.addresses import Files
from p2p.state.sqlite import SqliteLogStore
from p2p.state.store import LogStore
from p2p.state.talks import Habits


def _nothing() -> None:
    """Close what needs no closing."""


@dataclass(frozen=True)
class Ground:
    """A folder and the clock on the wall, or what a simulation has in their place.

    Attributes:
        logs: keeps the replicated state.
        book: keeps where peers were met.
        blobs: keeps content.
        habits: of the replica; say in it whether the key was never used.
        wall: the date, in seconds since 1970; may be wrong and may jump.
        rng: dice.
        close: lets go of the files.
    """

    logs: LogStore
    book: Files
    blobs: Space
    habits: Habits = field(default_factory=Habits)
    wall: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.SystemRandom)
    close: Callable[[], None] = _nothing


def ground_in(folder: Path, *, fresh: bool = False) -> Ground:
    """Return the ground of the peer whose folder this is.

    Args:
        folder: the peer's.
        fresh: its key was made just now and has never been used.
    """
    disk = RealDisk(folder, one_thread=False)
    logs = SqliteLogStore(disk)
    blobs = FolderSpace(folder / SHELF)
    return Ground(logs, disk, blobs, Habits(fresh=fresh), close=logs.close)
