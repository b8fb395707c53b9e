"""Where peers were found: an address book that survives restarts, and its rules.

Anyone may claim anything about addresses, so hearsay is kept apart from experience: an
address that worked is never pushed out by ones that were only heard of, nor is a peer
that was reached by peers that were only named. Both tables are bounded.

The order in which a peer's addresses are dialled: first what worked at the last try,
the latest success first; then, near before far (this machine, LAN, public, named,
through a relay), what was not tried or failed less often.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import Protocol

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader, text, varint
from p2p.identity.keys import public_of
from p2p.members.places import MAX_CHARS, Reach, read_place

FILE = "addresses"
MAX_PEERS = 2048
MAX_PER_PEER = 12
MAX_HEARD = 64  # of the addresses that one message may claim, how many are read
_HEAD = b"FCA\x01"
_MAX_FAILURES = 1 << 16
_SUM_BYTES = 32


class Files(Protocol):
    """The part of ``fedcore.disk.Disk`` that an address book needs."""

    def names(self) -> Sequence[str]: ...

    def read(self, name: str) -> bytes: ...

    def replace(self, name: str, data: bytes) -> None: ...


@dataclass(slots=True)
class Remembered:
    """What is known of one address of a peer; times in seconds since the epoch.

    Attributes:
        address: where.
        reach: how near that is.
        heard_s: when it was last heard of, or tried.
        success_s: when it last worked; 0 = never.
        failure_s: when it last failed; 0 = never.
        failures: how often it failed since it last worked.
    """

    address: str
    reach: Reach
    heard_s: float
    success_s: float = 0.0
    failure_s: float = 0.0
    failures: int = 0

    def order(self) -> tuple[bool, float, bool, int, float, str]:
        """Return what the addresses of a peer are sorted by; the best is lowest."""
        works = self.success_s > 0 and not self.failures
        latest = -self.success_s if works else 0.0
        failed = self.failures > 0
        return not works, latest, failed, self.reach, -self.heard_s, self.address


@dataclass(slots=True)
class _Entry:
    """A peer's addresses; ``rank`` decides which peer is forgotten first."""

    places: dict[str, Remembered] = field(default_factory=dict)

    def rank(self) -> tuple[float, float]:
        known = self.places.values()
        best = max((p.success_s for p in known), default=0.0)
        return best, max((p.heard_s for p in known), default=0.0)


class AddressBook:
    """Addresses by peer. Used by one thread at a time."""

    def __init__(self, disk: Files, wall: Callable[[], float]) -> None:
        """Read what ``disk`` remembers.

        A damaged file is no reason to stop: the book is empty then, and ``fault``
        says so. ``wall`` returns seconds since the epoch and may jump.

        Raises:
            StorageError: the disk cannot be read.
        """
        self.disk, self.wall = disk, wall
        self.fault = ""
        self._peers: dict[PeerId, _Entry] = {}
        self._changed = False
        self._order: list[PeerId] | None = None  # of ``peers``, until something changes
        if FILE in disk.names():
            self._load(disk.read(FILE))

    def heard(self, peer: PeerId, addresses: Iterable[str]) -> int:
        """Remember that somebody claims these addresses of ``peer``; no success yet.

        Returns:
            How many of them are no addresses, or another peer's.

        Raises:
            ProtocolError: ``peer`` is no peer id.
        """
        public_of(peer)
        wrong = 0
        for address, _ in zip(addresses, range(MAX_HEARD), strict=False):
            try:
                self._place(peer, address).heard_s = self.wall()
            except ProtocolError:
                wrong += 1
        self._trim(peer)
        return wrong

    def reached(self, peer: PeerId, address: str) -> None:
        """Remember that ``peer`` was met at ``address``.

        Raises:
            ProtocolError: ``address`` is none, or another peer's.
        """
        place = self._place(peer, address)
        place.heard_s = place.success_s = max(self.wall(), 1.0)
        place.failures = 0
        self._trim(peer)

    def missed(self, peer: PeerId, address: str) -> None:
        """Remember that ``peer`` was not met at ``address``, if that is known."""
        place = self._peers.get(peer, _Entry()).places.get(address)
        if place is not None:
            place.failure_s = self.wall()
            place.failures = min(place.failures + 1, _MAX_FAILURES)
            self._changed = True

    def forget(self, peer: PeerId) -> None:
        """Remove all that is known of ``peer``."""
        self._changed |= self._peers.pop(peer, None) is not None
        self._order = None

    def of(self, peer: PeerId) -> list[Remembered]:
        """Return the addresses of ``peer`` in the order to dial them."""
        entry = self._peers.get(peer)
        return sorted(entry.places.values(), key=Remembered.order) if entry else []

    def peers(self) -> list[PeerId]:
        """Return all peers with an address, the latest met first."""
        if self._order is None:
            ranks = {peer: entry.rank() for peer, entry in self._peers.items()}
            self._order = sorted(ranks, key=lambda p: (-ranks[p][0], -ranks[p][1], p))
        return list(self._order)

    def save(self) -> None:
        """Write the book, whole or not at all, if anything changed.

        Raises:
            StorageError: the disk failed; what was there before is intact.
        """
        if self._changed:
            body = _encoded(self._peers)
            self.disk.replace(FILE, body + hashlib.sha256(body).digest())
            self._changed = False

    def _place(self, peer: PeerId, address: str) -> Remembered:
        """Return the entry for ``address``, new if there is none."""
        place = read_place(address)
        if place.peer not in (None, peer):
            raise ProtocolError(f"{peer} is given an address of {place.peer}")
        self._changed = True
        entry = self._peers.setdefault(peer, _Entry())
        return entry.places.setdefault(
            address, Remembered(address, place.reach, self.wall())
        )

    def _trim(self, peer: PeerId) -> None:
        """Forget the worst addresses of ``peer``, then the worst peer."""
        self._order = None
        for place in self.of(peer)[MAX_PER_PEER:]:
            del self._peers[peer].places[place.address]
        if len(self._peers) > MAX_PEERS:
            del self._peers[min(self._peers, key=lambda p: (self._peers[p].rank(), p))]

    def _load(self, data: bytes) -> None:
        try:
            self._peers = _decoded(_checked(data), self.wall())
        except ProtocolError as error:
            self.fault = f"the address book was damaged, and begins anew: {error}"


def _encoded(peers: dict[PeerId, _Entry]) -> bytes:
    parts = [_HEAD, varint(len(peers))]
    for peer, entry in sorted(peers.items()):
        parts += [text(peer), varint(len(entry.places))]
        for address, place in sorted(entry.places.items()):
            times = pack("<3d", place.heard_s, place.success_s, place.failure_s)
            parts += [text(address), times, varint(place.failures)]
    return b"".join(parts)


def _checked(data: bytes) -> bytes:
    body, end = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if hashlib.sha256(body).digest() != end:
        raise ProtocolError("its sum is wrong")
    return body


def _decoded(body: bytes, now_s: float) -> dict[PeerId, _Entry]:
    reader = Reader(body)
    if bytes(reader.take(len(_HEAD))) != _HEAD:
        raise ProtocolError("it is of another version")
    peers = {}
    for _ in range(reader.varint(MAX_PEERS)):
        peer = reader.text(MAX_CHARS)
        public_of(peer)
        found = [_read(reader, now_s) for _ in range(reader.varint(MAX_PER_PEER))]
        peers[peer] = _Entry({place.address: place for place in found})
    if reader.left():
        raise ProtocolError("it is too long")
    return peers


def _read(reader: Reader, now_s: float) -> Remembered:
    address = reader.text(MAX_CHARS)
    heard_s, success_s, failure_s = (_past(reader.float(), now_s) for _ in range(3))
    failures = reader.varint(_MAX_FAILURES)
    reach = read_place(address).reach
    return Remembered(address, reach, heard_s, success_s, failure_s, failures)


def _past(time_s: float, now_s: float) -> float:
    """Return ``time_s``, but not after now: the clock may have been wrong then."""
    return min(time_s, now_s) if time_s >= 0 else 0.0
