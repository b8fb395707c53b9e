"""One download: which chunk to ask whom for next.

*Rarest first*, so that no chunk depends on one peer for long; among equally rare ones
an order drawn for this download, so that peers who start together fetch different ones
and can serve each other at once. Near the end (every missing chunk has been asked for)
a few that are late are asked for a second time, from somebody quicker, so that the
last one does not wait for a slow peer.

Each source has a window of asks under way, found as TCP Vegas does: it grows while
answers come as quickly as the quickest ever did, and shrinks when they queue.

Source: Cohen, "Incentives build robustness in BitTorrent", 2003, section 2.4; Brakmo
and Peterson, "TCP Vegas", 1995.
"""

import math
import random
from dataclasses import dataclass, field

import numpy as np

from fedcore.names import PeerId
from p2p.content.asks import Flags

FIRST_WINDOW, MAX_WINDOW = 2.0, 24.0
MAX_TWICE = 8  # chunks under way from two peers
LATE = 2.0  # times the time that somebody else would take
UNKNOWN_S = 1.0  # the time of somebody who has sent nothing yet
STRIKES = 3  # failures in a row until a long rest
LONG_REST_S = 30.0
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 15.0, 60.0


@dataclass(slots=True)
class Source:
    """A peer that has some of the chunks.

    Attributes:
        flags: which chunks it has.
        under_way: asked and not answered; chunk -> when, in seconds.
        window: most asks under way.
        quickest_s: time of its quickest answer.
        strikes: failures in a row.
        rests_until_s: it is not asked before.
        sent_bytes: good bytes it sent.
    """

    flags: Flags
    under_way: dict[int, float] = field(default_factory=dict)
    window: float = FIRST_WINDOW
    quickest_s: float = math.inf
    latency_s: float = 0.0
    strikes: int = 0
    rests_until_s: float = -math.inf
    sent_bytes: int = 0

    @property
    def timeout_s(self) -> float:
        """How long to wait for an answer."""
        if not self.latency_s:
            return MAX_TIMEOUT_S
        return min(max(8 * self.latency_s, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def free(self, now_s: float) -> bool:
        """Return whether it may be asked for one more chunk."""
        return len(self.under_way) < int(self.window) and now_s >= self.rests_until_s

    def answered(self, index: int, now_s: float) -> None:
        """Learn from an answer how many asks this source likes."""
        took_s = now_s - self.under_way.pop(index, now_s)
        self.strikes = 0
        self.latency_s = (
            took_s if not self.latency_s else (0.8 * self.latency_s + 0.2 * took_s)
        )
        self.quickest_s = min(1.02 * self.quickest_s, took_s)  # paths change
        if took_s <= 2 * self.quickest_s:
            self.window = min(self.window + 1, MAX_WINDOW)
        elif took_s > 4 * self.quickest_s:
            self.window = max(self.window - 1, FIRST_WINDOW)

    def failed(self, index: int, now_s: float) -> None:
        """Learn from a failure: rest, longer and longer."""
        self.under_way.pop(index, None)
        self.strikes += 1
        self.window = max(1.0, self.window / 2)
        rest_s = LONG_REST_S if self.strikes >= STRIKES else float(self.strikes)
        self.rests_until_s = max(self.rests_until_s, now_s + rest_s)


class Fetch:
    """The chunks of one blob, missing, under way and here.

    Args:
        have: one byte, 0 or 1, for each chunk.
        rng: draws the order among equally rare chunks.
        at_once: most chunks under way, from all sources together.
    """

    def __init__(self, have: bytes, rng: random.Random, at_once: int) -> None:
        self.chunks, self._at_once = len(have), at_once
        self.sources: dict[PeerId, Source] = {}
        self._missing = np.frombuffer(have, np.uint8) == 0
        self._open = self._missing.copy()  # missing, and not under way
        order = list(range(self.chunks))
        rng.shuffle(order)
        # Sorts by how many have a chunk, then by the order drawn.
        self._rank = np.array(order, np.int64)
        self._askers: dict[int, list[PeerId]] = {}  # of chunks under way, oldest first

    def stocked(self, peer: PeerId, flags: Flags) -> None:
        """Take note of which chunks ``peer`` has now."""
        source = self.sources.get(peer)
        if source is None:
            source = self.sources[peer] = Source(np.zeros(self.chunks, np.bool_))
        change = flags.astype(np.int64) - source.flags
        self._rank += self.chunks * change
        source.flags = flags

    def lacks(self, peer: PeerId, index: int) -> None:
        """Take note that ``peer`` does not have, or not give, a chunk."""
        source = self.sources.get(peer)
        if source is not None and source.flags[index]:
            flags = source.flags.copy()
            flags[index] = False
            self.stocked(peer, flags)

    def leave(self, peer: PeerId) -> None:
        """Forget a source; what it was asked for is open again."""
        source = self.sources.get(peer)
        if source is None:
            return
        for index in list(source.under_way):
            self.over(peer, index)
        self.stocked(peer, np.zeros(self.chunks, np.bool_))
        del self.sources[peer]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self._missing.any()

    def picks(self, now_s: float) -> list[tuple[PeerId, int]]:
        """Return what to ask whom for, and count it as under way."""
        picked = []
        for peer in self._by_turns(now_s):
            if len(self._askers) >= self._at_once:
                break
            index = self._pick(peer, now_s)
            if index is not None:
                self.sources[peer].under_way[index] = now_s
                self._askers.setdefault(index, []).append(peer)
                self._open[index] = False
                picked.append((peer, index))
        return picked

    def over(self, peer: PeerId, index: int) -> None:
        """Take note that ``peer`` is no longer asked for a chunk."""
        askers = self._askers.get(index, [])
        if peer in askers:
            askers.remove(peer)
        if not askers:
            self._askers.pop(index, None)
            self._open[index] = self._missing[index]

    def here(self, index: int) -> None:
        """Take note that a chunk is here."""
        self._missing[index] = self._open[index] = False

    def gone(self, index: int) -> None:
        """Take note that a chunk is not here any more."""
        self._missing[index] = True
        self._open[index] = index not in self._askers

    def _by_turns(self, now_s: float) -> list[PeerId]:
        """Return free sources, each as often as it is free, the quickest first."""
        free = {
            peer: int(s.window) - len(s.under_way)
            for peer, s in self.sources.items()
            if s.free(now_s)
        }
        quickest = sorted(free, key=lambda peer: self.sources[peer].latency_s)
        rounds = range(max(free.values(), default=0))
        return [peer for turn in rounds for peer in quickest if free[peer] > turn]

    def _pick(self, peer: PeerId, now_s: float) -> int | None:
        flags = self.sources[peer].flags
        ready = np.flatnonzero(self._open & flags)
        if ready.size:
            return int(ready[self._rank[ready].argmin()])
        return None if self._open.any() else self._again(peer, now_s)

    def _again(self, peer: PeerId, now_s: float) -> int | None:
        """Return a chunk that another peer is late with, the oldest such."""
        source = self.sources[peer]
        late_s = now_s - LATE * (source.latency_s or UNKNOWN_S)
        if self._twice() >= MAX_TWICE:
            return None
        for index, askers in self._askers.items():
            if len(askers) > 1 or askers == [peer] or not source.flags[index]:
                continue
            asked_s = self.sources[askers[0]].under_way[index]
            if self._missing[index] and asked_s <= late_s:
                return index
        return None

    def _twice(self) -> int:
        """Return how many chunks are under way from more than one peer."""
        return sum(len(askers) > 1 for askers in self._askers.values())
