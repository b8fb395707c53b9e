"""Where two logs of one writer part: a search in few questions, and the proof.

The asker knows a position where the links are equal and one where they differ, and asks
for 32 links in between, again and again: a million entries take four questions. Then it
asks for the other's branch from the first entry that differs; with its own it is the
proof (``p2p.state.segments.Fork``). A peer that only pretended has nothing to show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.names import PeerId
from p2p.state.logs import Logs
from p2p.state.messages import POSITIONS, Prove, Trace


@dataclass(frozen=True, slots=True)
class Search:
    """Links are equal at ``low`` and differ at ``high``."""

    writer: PeerId
    low: int
    high: int

    def question(self) -> Trace | Prove:
        """Return what to ask next."""
        if self.high - self.low == 1:
            return Prove(self.writer, self.high)
        return Trace(self.writer, self.positions())

    def positions(self) -> list[int]:
        """Return the positions between the two to ask for, ascending."""
        span = self.high - self.low
        count = min(POSITIONS, span - 1)
        return [self.low + span * i // (count + 1) for i in range(1, count + 1)]

    def narrowed(self, logs: Logs, links: Sequence[bytes]) -> "Search | None":
        """Return the search after the answer ``links``; None if it leads nowhere.

        Our log or the other's may have been cut in the meantime.
        """
        positions = self.positions()
        length = logs.tip(self.writer).length
        if len(links) != len(positions) or self.high > length:
            return None
        low, high = self.low, self.high
        for position, link in zip(positions, links, strict=True):
            if logs.link(self.writer, position) != link:
                high = position
                break
            low = position
        return Search(self.writer, low, high)
