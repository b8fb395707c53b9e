"""Who is online now, and who comes or goes next, among many simulated peers."""

import heapq
from collections.abc import Iterator, Sequence
from math import inf

from sims.world.availability import Availability, Span
from sims.world.site import Site


class Presence:
    """The hours of all peers, read forward as the clock goes.

    Memory and time grow with the peers and with their comings and goings, not with
    the length of the simulation.
    """

    def __init__(self, availability: Availability, sites: Sequence[Site]) -> None:
        """Start at time 0."""
        self._spans: list[Iterator[Span]] = [availability.spans(s) for s in sites]
        self._next: list[Span] = [next(spans, (inf, inf)) for spans in self._spans]
        self._changes = [
            (start_s if start_s > 0 else end_s, place)
            for place, (start_s, end_s) in enumerate(self._next)
        ]
        self._changes = [change for change in self._changes if change[0] < inf]
        heapq.heapify(self._changes)
        self._online = [start_s <= 0 for start_s, _ in self._next]

    def online(self, place: int) -> bool:
        """Return whether the peer at ``place`` is online now."""
        return self._online[place]

    def off_s(self, place: int) -> float:
        """Return when the peer, online now, goes offline; may be inf."""
        return self._next[place][1]

    @property
    def change_s(self) -> float:
        """When the next peer comes or goes; inf if none ever will."""
        return self._changes[0][0] if self._changes else inf

    def advance(self, now_s: float) -> Iterator[int]:
        """Go on to ``now_s``; yield the place of each peer as it comes or goes."""
        while self.change_s <= now_s:
            _, place = heapq.heappop(self._changes)
            change_s = self._turn(place)
            if change_s < inf:
                heapq.heappush(self._changes, (change_s, place))
            yield place

    def _turn(self, place: int) -> float:
        """Switch one peer on or off and return when it switches next."""
        self._online[place] = not self._online[place]
        if not self._online[place]:
            self._next[place] = next(self._spans[place], (inf, inf))
            return self._next[place][0]
        return self._next[place][1]
