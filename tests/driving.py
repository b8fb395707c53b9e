"""A pacer, its peers and a clock, by hand: nothing is trained, nothing waits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fedcore.pacing import Pacer
from fedcore.strategy import PeerId, Update

ZERO = {"w": torch.zeros(1)}


@dataclass
class Drive:
    """Plays the link and the coordinator for ``pacer``.

    Attributes:
        online: who is there; the rest starts nothing.
        version: folds so far.
        working: version and batches of the work of each peer that has some.
        starts: when, who, and how many batches.
        folds: when, and (peer, version of its work) of each answer.
        sent: when each (peer, version of its work) was answered.
    """

    pacer: Pacer
    online: set[PeerId]
    now_s: float = 0.0
    version: int = 0
    working: dict[PeerId, tuple[int, int | None]] = field(default_factory=dict)
    starts: list[tuple[float, PeerId, int | None]] = field(default_factory=list)
    folds: list[tuple[float, list[tuple[PeerId, int]]]] = field(default_factory=list)
    sent: dict[tuple[PeerId, int], float] = field(default_factory=dict)

    def __post_init__(self):
        self.pace = self.pacer.init()
        self._assign()

    def until(self, now_s):
        """Let time pass, and every deadline before ``now_s``."""
        while (due_s := self.pacer.deadline_s(self.pace)) < now_s:
            self.now_s = max(due_s, self.now_s)
            self._take([])
        self.now_s = now_s

    def answer(self, now_s, *peers, **metrics):
        """Let ``peers`` answer at ``now_s``, all in one event."""
        self.until(now_s)
        self._take([self._update(peer, metrics) for peer in peers])

    def come(self, peer):
        """Let ``peer`` come online now."""
        self.online.add(peer)
        self._assign()

    def lose(self, now_s, *peers):
        """Let the link give ``peers`` up at ``now_s``."""
        self.until(now_s)
        for peer in peers:
            del self.working[peer]
        self.pace = self.pacer.lose(self.pace, set(peers), now_s)
        self._take([])

    def _update(self, peer, metrics):
        version, _ = self.working.pop(peer)
        self.sent[peer, version] = self.now_s
        return Update(peer, version, ZERO, 1, metrics)

    def _take(self, updates: Sequence[Update]):
        self.pace, fold = self.pacer.take(self.pace, updates, self.now_s)
        if fold:
            self.folds.append((self.now_s, [(u.peer, u.version) for u in fold]))
            self.version += 1
        self._assign()

    def _assign(self):
        idle = sorted(self.online - self.working.keys())
        self.pace, starts = self.pacer.assign(self.pace, idle, self.now_s)
        for start in starts:
            assert start.peer in idle
            self.working[start.peer] = self.version, start.steps
            self.starts.append((self.now_s, start.peer, start.steps))
