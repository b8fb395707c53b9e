"""One search: ask the nearest known peers for nearer ones until there are none.

The search takes several *disjoint paths*: a peer belongs to the path that first heard
of it, so that liars who lead one path astray do not decide the whole search.

Source: Maymounkov and Mazieres, "Kademlia", 2002, section 2.3; Baumgart and Mies,
"S/Kademlia", 2007, section 4.2 (disjoint paths).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.content.cid import Cid
from p2p.content.records import place_of

ALPHA = 3  # asks of a path under way
MAX_ASKS = 96  # of a search


@dataclass(frozen=True, slots=True)
class Found:
    """An effect of our own: who has a blob; more may follow until ``over``.

    Attributes:
        peers: new ones; each is named once.
        asks: how many peers were asked, when it is over.
        hops: length of the longest chain of answers, when it is over.
    """

    cid: Cid
    peers: Sequence[PeerId]
    over: bool
    asks: int = 0
    hops: int = 0


@dataclass(slots=True)
class _Path:
    """Peers of one path, by what became of them."""

    waiting: dict[PeerId, int] = field(default_factory=dict)  # peer -> distance
    asked: dict[PeerId, int] = field(default_factory=dict)
    answered: dict[PeerId, int] = field(default_factory=dict)


class Search:
    """What one search knows.

    Args:
        me: never asked.
        target: the place to come near to.
        seeds: known peers, nearest first.
        paths: number of disjoint paths.
        close: a path ends when this many of its nearest peers have answered.

    Attributes:
        asks: how many peers were asked.
        hops: length of the longest chain of answers.
    """

    def __init__(
        self,
        me: PeerId,
        target: int,
        seeds: Sequence[PeerId],
        *,
        paths: int,
        close: int,
    ) -> None:
        self.target, self.close = target, close
        self.asks = self.hops = 0
        self._paths = [_Path() for _ in range(min(paths, max(1, len(seeds))))]
        self._owner: dict[PeerId, _Path] = {}
        self._depth = {me: 0}
        for number, peer in enumerate(seeds):
            self._add(self._paths[number % len(self._paths)], peer, 1)

    def next(self) -> list[PeerId]:
        """Return whom to ask now; each must be answered or failed later."""
        chosen = []
        for path in self._paths:
            while len(path.asked) < ALPHA and self.asks < MAX_ASKS:
                peer = self._nearest_waiting(path)
                if peer is None:
                    break
                path.asked[peer] = path.waiting.pop(peer)
                self.asks += 1
                chosen.append(peer)
        return chosen

    def answered(self, peer: PeerId, heard: Iterable[PeerId]) -> None:
        """Take the answer of ``peer``: the peers that it knows."""
        path = self._owner.get(peer)
        if path is None or peer not in path.asked:
            return
        path.answered[peer] = path.asked.pop(peer)
        self.hops = max(self.hops, self._depth[peer])
        for other in heard:
            self._add(path, other, self._depth[peer] + 1)

    def failed(self, peer: PeerId) -> None:
        """Take note that ``peer`` does not answer."""
        path = self._owner.get(peer)
        if path is not None:
            path.asked.pop(peer, None)

    @property
    def over(self) -> bool:
        """Whether nobody is to be asked any more, and nobody is being asked."""
        return not any(
            path.asked
            or (self.asks < MAX_ASKS and self._nearest_waiting(path) is not None)
            for path in self._paths
        )

    def nearest(self, count: int) -> list[PeerId]:
        """Return the ``count`` nearest peers that answered, nearest first."""
        answered = {p: d for path in self._paths for p, d in path.answered.items()}
        return sorted(answered, key=lambda peer: answered[peer])[:count]

    def _add(self, path: _Path, peer: PeerId, depth: int) -> None:
        if peer not in self._depth:
            self._depth[peer] = depth
            self._owner[peer] = path
            path.waiting[peer] = place_of(peer) ^ self.target

    def _nearest_waiting(self, path: _Path) -> PeerId | None:
        """Return who is to be asked next; None if enough nearer ones answered."""
        if not path.waiting:
            return None
        peer = min(path.waiting, key=lambda p: path.waiting[p])
        nearer = sum(d < path.waiting[peer] for d in path.answered.values())
        return peer if nearer < self.close else None


@dataclass(slots=True)
class Job:
    """A search and its purpose: to find ``cid``, to provide it, or only to look."""

    target: int
    cid: Cid | None = None
    provide: bool = False
    search: Search | None = None
    providers: dict[PeerId, None] = field(default_factory=dict)

    @property
    def finds(self) -> bool:
        """Whether records are looked for."""
        return self.cid is not None and not self.provide
