"""What waits for a machine, in turns: whoever took least of its time comes first.

A peer whose messages are many, or dear to judge, makes only itself wait. The messages
of one peer stay in order. What comes from nobody, such as commands of the owner, comes
before everything else.
"""

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from fedcore.names import PeerId

NOBODY = ""
REMEMBERED = 4096  # peers whose time is remembered; who is longest quiet is forgotten


@dataclass(slots=True)
class _Queue:
    events: deque[tuple[Any, int]] = field(default_factory=deque)
    size_bytes: int = 0


@dataclass
class Turns:
    """Events by the peer that they come from; any thread may put, one takes.

    Notation: a peer's *time* is what it took so far; one that comes anew starts at
    that of the peer served last, so that having been quiet is no credit.

    Attributes:
        count: events that wait.
        size_bytes: what their makers said that they hold.
    """

    _waiting: dict[PeerId, _Queue] = field(default_factory=dict)
    _time_s: "OrderedDict[PeerId, float]" = field(default_factory=OrderedDict)
    _now_s: float = 0.0  # the time of the peer that was served last
    count: int = 0
    size_bytes: int = 0
    _ready: threading.Condition = field(default_factory=threading.Condition)

    def put(self, peer: PeerId, event: Any, size_bytes: int = 0) -> None:
        """Let ``event`` wait."""
        with self._ready:
            queue = self._waiting.setdefault(peer, _Queue())
            if not queue.events:
                self._time_s[peer] = max(self._now_s, self._time_s.pop(peer, 0.0))
                if len(self._time_s) > REMEMBERED:
                    self._forget_one()
            queue.events.append((event, size_bytes))
            queue.size_bytes += size_bytes
            self.size_bytes += size_bytes
            self.count += 1
            self._ready.notify()

    def take(self, timeout_s: float) -> tuple[PeerId, Any] | None:
        """Return whose turn it is, and its event; None if nothing came in time."""
        until_s = time.monotonic() + timeout_s
        with self._ready:
            while not self.count:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return None
                self._ready.wait(left_s)
            return self._next()

    def spent(self, peer: PeerId, took_s: float) -> None:
        """Count that an event of ``peer`` took so long."""
        with self._ready:
            if peer in self._time_s:
                self._time_s[peer] += took_s

    def waiting(self, peer: PeerId) -> tuple[int, int]:
        """Return how many events of ``peer`` wait, and their bytes."""
        with self._ready:
            queue = self._waiting.get(peer)
            return (len(queue.events), queue.size_bytes) if queue else (0, 0)

    def _next(self) -> tuple[PeerId, Any]:
        """Return the next event; there is one."""
        peer = NOBODY
        if NOBODY not in self._waiting:
            peer = min(self._waiting, key=lambda peer: self._time_s[peer])
            self._now_s = max(self._now_s, self._time_s[peer])
        queue = self._waiting[peer]
        event, size_bytes = queue.events.popleft()
        queue.size_bytes -= size_bytes
        self.size_bytes -= size_bytes
        self.count -= 1
        if not queue.events:
            del self._waiting[peer]
        return peer, event

    def _forget_one(self) -> None:
        for peer in self._time_s:
            if peer not in self._waiting:
                del self._time_s[peer]
                return
