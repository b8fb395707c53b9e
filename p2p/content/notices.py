"""The records that a peer keeps for others: bounded by blob, by peer, and in all."""

from collections import Counter
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.content.cid import Cid
from p2p.content.records import MAX_RECORDS, Record, target_of

PER_BLOB, PER_PEER, IN_ALL = 2 * MAX_RECORDS, 512, 16_384


@dataclass
class Notices:
    """Who has which blob, as far as this peer was told.

    Lives are counted from the arrival, by this peer's own clock.

    Attributes:
        place: of this peer; when all is full, what is farthest from it goes.
    """

    place: int
    per_blob: int = PER_BLOB
    per_peer: int = PER_PEER
    in_all: int = IN_ALL
    _blobs: dict[Cid, dict[PeerId, tuple[Record, float]]] = field(default_factory=dict)
    _by_peer: Counter[PeerId] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self._by_peer.total()

    def keep(self, record: Record, now_s: float) -> str:
        """Keep ``record``, which was checked; return why not, or nothing."""
        known = self._blobs.get(record.cid, {})
        old = known.get(record.peer)
        if old is not None:
            if old[0].made_s > record.made_s:
                return "a newer one is here"
            self._drop(record.cid, record.peer)
        if record.life_s == 0:
            return ""
        if len(known) >= self.per_blob or self._by_peer[record.peer] >= self.per_peer:
            return "no room for more of this blob, or of this peer"
        if len(self) >= self.in_all and not self._drop_farther(record.cid):
            return "no room for what is so far away"
        by_peer = self._blobs.setdefault(record.cid, {})
        by_peer[record.peer] = (record, now_s + record.life_s)
        self._by_peer[record.peer] += 1
        return ""

    def of(self, cid: Cid, now_s: float) -> list[Record]:
        """Return the newest records of a blob that have not expired."""
        live = [r for r, until in self._blobs.get(cid, {}).values() if until > now_s]
        return sorted(live, key=lambda r: (-r.made_s, r.peer))[:MAX_RECORDS]

    def expire(self, now_s: float) -> None:
        """Forget what has expired."""
        for cid, known in list(self._blobs.items()):
            for peer in [p for p, (_, until) in known.items() if until <= now_s]:
                self._drop(cid, peer)

    def _drop(self, cid: Cid, peer: PeerId) -> None:
        known = self._blobs[cid]
        del known[peer]
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        if not known:
            del self._blobs[cid]

    def _drop_farther(self, cid: Cid) -> bool:
        """Drop a record of the blob farthest from here, if it is farther than this."""
        far = max(self._blobs, key=lambda c: target_of(c) ^ self.place)
        if target_of(far) ^ self.place <= target_of(cid) ^ self.place:
            return False
        self._drop(far, next(iter(self._blobs[far])))
        return True
