"""Which of the content that the network lists is fetched unasked, and when.

Anybody may list what cannot be had. So one of each member is fetched at a time, what
nobody has makes room for the next after a while, and it is tried again later.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.state.bodies import Checkpoint

MOST = 8  # at a time
PATIENCE_S = 120.0  # without a good chunk
AGAIN_S = 900.0  # from one attempt at a checkpoint to the next
Listed = Iterable[tuple[Checkpoint, Collection[PeerId]]]


@dataclass
class Keeping:
    """Chooses; fetching is left to others."""

    _for: dict[str, PeerId] = field(default_factory=dict)
    _again_s: dict[str, float] = field(default_factory=dict)

    def chosen(
        self,
        now_s: float,
        listed: Listed,
        wanted: Collection[str],
        lacks: Callable[[str], bool],
    ) -> Iterator[tuple[Checkpoint, PeerId]]:
        """Yield what to fetch now, and for whose sake.

        Args:
            now_s: of a clock that never goes back.
            listed: everything, and who vouches for it.
            wanted: the ids of what is being fetched.
            lacks: whether content is not here, and ought to be.
        """
        busy = {self._for[cid] for cid in wanted if cid in self._for}
        for point, vouchers in listed:
            free = [peer for peer in vouchers if peer not in busy]
            if not free or len(busy) >= MOST or point.cid in wanted:
                continue
            if now_s >= self._again_s.get(point.cid, now_s) and lacks(point.cid):
                busy.add(free[0])
                self._for[point.cid] = free[0]
                self._again_s[point.cid] = now_s + AGAIN_S
                yield point, free[0]
