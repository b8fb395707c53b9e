"""What happened lately, for people: the newest few hundred notes."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clients.peer.tables import shortened
from p2p.machine import Note

MOST = 500
SAME_S = 60.0  # a note that is said again within so long is only counted
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Kept:
    """A note.

    Attributes:
        at_s: seconds since 1970, when it was said last.
        times: how often it was said.
    """

    at_s: float
    note: Note
    times: int = 1

    def plain(self) -> Mapping[str, Any]:
        """Return it for JSON."""
        words = shortened(self.note.words)
        words += f" ({self.times} times)" if self.times > 1 else ""
        row = {"at_s": self.at_s, "kind": self.note.kind, "words": words}
        return row | {"peer": self.note.peer}


@dataclass
class Notes:
    """Takes notes from any thread.

    Attributes:
        wall: seconds since 1970.
        counts: notes of each kind, since the start.
    """

    wall: Callable[[], float] = time.time
    counts: Counter[str] = field(default_factory=Counter)
    _kept: deque[Kept] = field(default_factory=lambda: deque(maxlen=MOST))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, note: Note) -> None:
        """Keep ``note``."""
        now_s = self.wall()
        with self._lock:
            self.counts[note.kind] += 1
            for kept in reversed(self._kept):
                if kept.at_s < now_s - SAME_S:
                    break
                if (kept.note.kind, kept.note.words) == (note.kind, note.words):
                    kept.times, kept.at_s = kept.times + 1, now_s
                    return
            self._kept.append(Kept(now_s, note))
        log.info("%s: %s", note.kind, shortened(note.words))

    def newest(self, count: int = MOST) -> Sequence[Mapping[str, Any]]:
        """Return the newest notes, the oldest of them first."""
        with self._lock:
            return [kept.plain() for kept in list(self._kept)[-count:]]
