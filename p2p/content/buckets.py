"""Whom a peer knows: many of those near to it, a few of those far away.

Bucket ``i`` holds at most K peers whose distance has its highest bit at ``i``. A full
bucket keeps its old peers while they answer, since those who were here long stay
long, and nobody can push them out by arriving in numbers.

Source: Maymounkov and Mazieres, "Kademlia", 2002, sections 2.2 to 2.4.
"""

import math
from dataclasses import dataclass, field
from random import Random

from fedcore.names import PeerId
from p2p.content.records import K, place_of

SPARES = 4  # of a bucket, to take the place of who fails
STRIKES = 2  # failures in a row
BITS = 256


@dataclass(slots=True)
class Contact:
    """A peer that has been heard of first hand.

    Attributes:
        place: see ``place_of``.
        seen_s: when it last answered or asked.
        strikes: failures since then.
    """

    peer: PeerId
    place: int
    seen_s: float
    strikes: int = 0


@dataclass(slots=True)
class _Bucket:
    members: dict[PeerId, Contact] = field(default_factory=dict)
    spares: dict[PeerId, Contact] = field(default_factory=dict)  # newest last
    looked_s: float = -math.inf


class Buckets:
    """The table of one peer; at most K + 4 contacts in each of 256 buckets."""

    def __init__(self, me: PeerId) -> None:
        self.place = place_of(me)
        self._me = me
        self._buckets: dict[int, _Bucket] = {}  # by the highest bit of the distance

    def __len__(self) -> int:
        return sum(len(bucket.members) for bucket in self._buckets.values())

    def seen(self, peer: PeerId, now_s: float) -> None:
        """Take note that ``peer`` answered or asked, itself."""
        if peer == self._me:
            return
        place = place_of(peer)
        bucket = self._bucket(place)
        old = bucket.members.get(peer)
        if old is not None:
            old.seen_s, old.strikes = now_s, 0
            return
        contact = Contact(peer, place, now_s)
        if len(bucket.members) < K:
            bucket.spares.pop(peer, None)
            bucket.members[peer] = contact
        else:
            bucket.spares.pop(peer, None)
            bucket.spares[peer] = contact
            if len(bucket.spares) > SPARES:
                del bucket.spares[next(iter(bucket.spares))]

    def failed(self, peer: PeerId) -> None:
        """Take note that ``peer`` did not answer; a spare may take its place."""
        bucket = self._bucket(place_of(peer))
        bucket.spares.pop(peer, None)
        contact = bucket.members.get(peer)
        if contact is None:
            return
        contact.strikes += 1
        # Alone it stays: the network may be down, and not the peer.
        if contact.strikes >= STRIKES and (bucket.spares or len(self) > K):
            del bucket.members[peer]
            if bucket.spares:
                newest, spare = bucket.spares.popitem()
                bucket.members[newest] = spare

    def nearest(self, place: int, count: int = K) -> list[PeerId]:
        """Return the ``count`` peers nearest to ``place``, nearest first.

        Those that failed lately come last.
        """
        all_ = (c for bucket in self._buckets.values() for c in bucket.members.values())
        ranked = sorted(all_, key=lambda c: (c.strikes > 0, c.place ^ place))
        return [contact.peer for contact in ranked[:count]]

    def doubtful(self, now_s: float, quiet_s: float) -> PeerId | None:
        """Return a peer not heard of for ``quiet_s``; None if there is none."""
        quiet = [
            contact
            for bucket in self._buckets.values()
            for contact in bucket.members.values()
            if contact.seen_s + quiet_s <= now_s
        ]
        return min(quiet, key=lambda c: c.seen_s).peer if quiet else None

    def looked(self, place: int, now_s: float) -> None:
        """Take note of a search for ``place``."""
        if place != self.place:
            self._bucket(place).looked_s = now_s

    def stale(self, now_s: float, after_s: float, rng: Random) -> int | None:
        """Return a place in a bucket not searched lately; None if there is none.

        Buckets nearer than the nearest contact are empty for good, and left alone.
        """
        used = [i for i, bucket in self._buckets.items() if bucket.members]
        for index in range(min(used, default=BITS), BITS):
            bucket = self._buckets.get(index)
            if bucket is None or bucket.looked_s + after_s <= now_s:
                return self.place ^ (1 << index | rng.getrandbits(index or 1))
        return None

    def _bucket(self, place: int) -> _Bucket:
        index = max(0, (place ^ self.place).bit_length() - 1)
        return self._buckets.setdefault(index, _Bucket())
