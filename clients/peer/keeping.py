"""Which of the content that the network lists is fetched unasked, and when.

Anybody may list what cannot be had. So one of each member is fetched at a time, what
nobody has makes room for the next after a while, and it is tried again later. A long
list is gone through a part at a time.

Anybody may list what is huge, too. So what is kept unasked for one member takes at most
half of the room, and pushes out nothing but older versions of itself.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from fedcore.errors import StorageError
from fedcore.names import PeerId
from p2p.content.shelf import Shelf
from p2p.state.bodies import Checkpoint

MOST = 8  # at a time
LOOK = 512  # rows of the list that are looked at in one go
REMEMBERED = 4096  # contents of which it is remembered for whom they are
PATIENCE_S = 120.0  # without a good chunk
AGAIN_S = 900.0  # from one attempt at a checkpoint to the next
SHARE = 2  # one member's content takes at most 1 / SHARE of the room
T = TypeVar("T")
Row = tuple[Checkpoint, Collection[PeerId]]


@dataclass
class Keeping:
    """Chooses; fetching is left to others."""

    _for: dict[str, tuple[PeerId, int]] = field(default_factory=dict)
    _again_s: dict[str, float] = field(default_factory=dict)
    _rest: Iterator[Row] = field(default_factory=lambda: iter(()))

    def chosen(
        self,
        now_s: float,
        listed: Callable[[], Iterable[Row]],
        wanted: Collection[str],
        lacks: Callable[[str], bool],
    ) -> Iterator[tuple[Checkpoint, PeerId]]:
        """Yield what to fetch now, and for whose sake.

        Args:
            now_s: of a clock that never goes back.
            listed: returns everything, and who vouches for it.
            wanted: the ids of what is being fetched.
            lacks: whether content is not here, and ought to be.
        """
        busy = {self._for[cid][0] for cid in wanted if cid in self._for}
        for point, vouchers in self._next(listed):
            free = [peer for peer in vouchers if peer not in busy]
            if not free or len(busy) >= MOST or point.cid in wanted:
                continue
            if not lacks(point.cid):
                _remember(self._for, point.cid, (free[0], point.size_bytes))
            elif now_s >= self._again_s.get(point.cid, now_s):
                busy.add(free[0])
                _remember(self._for, point.cid, (free[0], point.size_bytes))
                _remember(self._again_s, point.cid, now_s + AGAIN_S)
                yield point, free[0]

    def _next(self, listed: Callable[[], Iterable[Row]]) -> Iterable[Row]:
        """Return the rows to look at now; after the last, the list is read anew."""
        rows = list(islice(self._rest, LOOK))
        if len(rows) < LOOK:
            self._rest = iter(listed())
        return rows or list(islice(self._rest, LOOK))

    def going(
        self,
        point: Checkpoint,
        by: PeerId,
        listed: Callable[[], Iterable[Row]],
        wanted: Collection[str],
        shelf: Shelf,
    ) -> list[str]:
        """Return what has to go so that ``point`` can be kept unasked.

        Args:
            point: what to keep.
            by: for whose sake.
            listed: as of ``chosen``.
            wanted: the ids of what is being fetched.
            shelf: where it will be.

        Returns:
            Ids of older versions, which nobody else lists, under whatever name.

        Raises:
            StorageError: there is no room all the same.
        """
        here = {blob.cid: blob.size_bytes for blob in shelf.blobs()}
        coming = {c for c in wanted if c in self._for and c not in here} - {point.cid}
        sakes = {c: self._for[c] for c in {*here, *coming} if c in self._for}
        theirs_bytes = sum(
            here.get(cid, size) for cid, (peer, size) in sakes.items() if peer == by
        )
        taken_bytes = shelf.total_bytes() + sum(self._for[c][1] for c in coming)
        short = point.size_bytes + max(
            theirs_bytes - shelf.quota_bytes // SHARE, taken_bytes - shelf.quota_bytes
        )
        if short <= 0:
            return []
        may_go = {b.cid for b in shelf.blobs() if not b.pinned}.difference(wanted)
        gone = []
        for cid in _older(point, by, [r for r in listed() if r[0].cid in may_go]):
            if short > 0:
                gone.append(cid)
                short -= here[cid]
        if short > 0:
            raise StorageError("no room for it among what is kept unasked")
        return gone


def _older(point: Checkpoint, by: PeerId, rows: Collection[Row]) -> Iterable[str]:
    """Return the earlier versions that only ``by`` lists, the oldest first."""
    others = {row.cid for row, vouchers in rows if set(vouchers) != {by}}
    versions = sorted((row.version, row.cid) for row, _ in rows if row.run == point.run)
    older = dict.fromkeys(cid for version, cid in versions if version < point.version)
    return [cid for cid in older if cid not in others]


def _remember(table: dict[str, T], name: str, value: T) -> None:
    table.pop(name, None)
    table[name] = value
    if len(table) > REMEMBERED:
        del table[next(iter(table))]
