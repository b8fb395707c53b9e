"""What admins have said of others, and what follows for the logs that we hold.

Removals are kept in memory, as they are needed whenever a log comes or goes.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.identity.removals import Removal, Said, Standing
from p2p.state.bodies import read_as
from p2p.state.chain import WRITERS, Kind
from p2p.state.held import Log
from p2p.state.seats import judged
from p2p.state.store import Row


@dataclass
class Ruling:
    """Who was sent away, and who has no seat.

    Attributes:
        own: writers of our own logs, which we never let go.
        standing: who was sent away.
        unseated: logs of ours that have no seat.
        removals: what stands in logs of admins, by writer.
        stale: whether something was said since all was judged.
        turned_away: logs that were offered, and had no seat: the links of their
            openings, by writer.
    """

    own: set[PeerId] = field(default_factory=set)
    standing: Standing = field(default_factory=Standing)
    unseated: set[PeerId] = field(default_factory=set)
    removals: dict[PeerId, list[Said]] = field(default_factory=dict)
    stale: bool = False
    turned_away: OrderedDict[PeerId, bytes] = field(default_factory=OrderedDict)

    def hear(self, opening: Opening, start: int, rows: Sequence[Row]) -> None:
        """Take note of what follows position ``start`` in a log."""
        if opening.role != "admin":
            return
        for position, (entry, _) in enumerate(rows, start):  # the opening is 0
            if entry.kind == Kind.REMOVAL:
                with suppress(ProtocolError):
                    body = read_as(Removal, entry)
                    said = Said(opening, position, body)
                    self.removals.setdefault(opening.writer, []).append(said)
                    self.stale = True

    def forget(self, writer: PeerId, limit: int) -> None:
        """A log ends at ``limit``: what was said after it is gone."""
        said = self.removals.get(writer, [])
        left = [one for one in said if one.position < limit]
        self.stale |= len(left) < len(said)
        if left:
            self.removals[writer] = left
        else:
            self.removals.pop(writer, None)

    def bound(self, opening: Opening | None) -> int | None:
        """Return how many entries of a log are part of the state; None if all are.

        The opening of one sent away is: it says who that was.
        """
        if opening is None:
            return None
        if opening.writer in self.unseated:
            return 0
        kept = self.standing.kept(opening)
        return None if kept is None else max(kept, 1)

    def judge(self, logs: Mapping[PeerId, Log]) -> Collection[PeerId]:
        """Judge anew; return the writers among ``logs`` that have no seat."""
        openings = {w: log.opening for w, log in logs.items() if log.opening}
        spoilt = {w for w, log in logs.items() if log.spoilt}
        before = self.standing
        self.standing, out = judged(openings, self.removals, spoilt)
        self.stale |= self.standing.counted != before.counted
        self.unseated = self.own.intersection(out)
        return out

    def turn_away(self, writer: PeerId, first: bytes) -> None:
        """Remember that ``writer`` has no seat, so as not to ask for its log again.

        With another opening than that of the link ``first`` it may have one.
        """
        self.turned_away[writer] = first
        if len(self.turned_away) > WRITERS:
            self.turned_away.popitem(last=False)
