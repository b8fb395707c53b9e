"""What a member says about itself, and the proof that it is still alive.

A *card* is signed: addresses, capabilities, a counter (the newest card of a peer wins;
no clock is compared) and the *anchor* of a hash chain. A *beat* reveals the next link
of that chain: 26 bytes, checked with one hash, and nobody but the owner can make it,
for that would be to invert the hash. So an idle mesh of thousands signs nothing.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import starmap
from typing import NamedTuple

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, fault_of
from fedcore.wire import Reader, text, varint
from p2p.identity.address import MAX_ADDRESSES, MAX_CHARS, check_address
from p2p.identity.keys import SIGNATURE_BYTES, Key, peer_of, public_of, verify
from p2p.identity.rights import Role, code_of, role_of

CONTEXT = "fedcore/card/1"
LINK_BYTES = 16
ID_BYTES = 8
BOOT_BYTES = 8
MAX_BEATS = 512  # of one card; then comes the next card
MAX_COUNTER = 1 << 48
MAX_PORT = 65535
MAX_LOAD = 100
MAX_CARD_BYTES = MAX_ADDRESSES * (MAX_CHARS + 2) + 320
_PROGRAM_BYTES = 32
_NAME_BYTES = 64
_RELAYS, _TRAINS = 1, 2
_BEAT = struct.Struct(f">{ID_BYTES}sH{LINK_BYTES}s")
BEAT_BYTES = _BEAT.size
_LINK_CONTEXT = b"fedcore/beat/1\0"


@dataclass(frozen=True)
class About:
    """What a member says about itself.

    Attributes:
        addresses: where it can be reached; at most 8, each ending with its own id.
        program: the version of its program, 1 to 32 bytes.
        role: its role; its opening says whether that is true.
        relays: whether it relays for others.
        trains: whether it trains.
        data_port: TCP port of its data channels; 0 if it has none, like the next two.
        splice_port: of its splice relay.
        whoami_port: where it tells others their address.
        load_percent: how busy it is, 0 to 100.
        name: what its owner calls it, at most 64 bytes; any two may have the same.
    """

    addresses: tuple[str, ...] = ()
    program: str = "0"
    role: Role = "peer"
    relays: bool = False
    trains: bool = False
    data_port: int = 0
    splice_port: int = 0
    whoami_port: int = 0
    load_percent: int = 0
    name: str = ""

    def encode(self) -> bytes:
        flags = self.relays * _RELAYS | self.trains * _TRAINS
        ports = (self.data_port, self.splice_port, self.whoami_port)
        rows = b"".join(text(address) for address in self.addresses)
        head = text(self.program) + bytes([code_of(self.role), flags])
        numbers = b"".join(map(varint, (*ports, self.load_percent)))
        return head + numbers + bytes([len(self.addresses)]) + rows + text(self.name)


@dataclass(frozen=True)
class Card:
    """A member's word about itself; from ``read_card`` or ``new_card`` only.

    Attributes:
        peer: whose it is.
        boot: 8 random bytes of this start of its program.
        counter: the newest card wins, whatever any clock shows.
        anchor: the end of its chain of beats, 16 bytes.
        about: what it says.
        signature: its owner's.
    """

    peer: PeerId
    boot: bytes
    counter: int
    anchor: bytes
    about: About
    signature: bytes = b""

    @cached_property
    def id(self) -> bytes:
        """8 bytes that stand for this card."""
        return hashlib.sha256(self.raw).digest()[:ID_BYTES]

    @cached_property
    def raw(self) -> bytes:
        """The card as it is sent."""
        return self.unsigned() + self.signature

    def unsigned(self) -> bytes:
        head = public_of(self.peer) + self.boot + varint(self.counter) + self.anchor
        return head + self.about.encode()


class Beat(NamedTuple):
    """A sign of life. Thousands a second are read: a tuple is made soonest.

    Attributes:
        card: the id of the card it belongs to.
        number: how many there were before, of this card: 0 is the anchor itself.
        link: 16 bytes; hashed ``number`` times they are the anchor.
    """

    card: bytes
    number: int
    link: bytes

    def encode(self) -> bytes:
        return _BEAT.pack(*self)


def chain_of(seed: bytes) -> list[bytes]:
    """Return the links of a card: the anchor first, then those of its beats."""
    links = [hashlib.sha256(_LINK_CONTEXT + seed).digest()[:LINK_BYTES]]
    for _ in range(MAX_BEATS):
        links.append(next_link(links[-1]))
    return links[::-1]


def next_link(link: bytes) -> bytes:
    """Return what ``link`` hashes to: the link that was revealed before it."""
    return hashlib.sha256(_LINK_CONTEXT + link).digest()[:LINK_BYTES]


def follows(later: Beat, earlier: Beat) -> bool:
    """Return whether ``later`` proves life after ``earlier``, of the same card."""
    link = later.link
    for _ in range(later.number - earlier.number):
        link = next_link(link)
    return later.card == earlier.card and link == earlier.link


def new_card(key: Key, boot: bytes, counter: int, anchor: bytes, about: About) -> Card:
    """Return a signed card.

    Raises:
        ProtocolError: something in it would be refused by others.
    """
    blank = Card(key.peer, boot, counter, anchor, about)
    return read_card(blank.raw + key.sign(CONTEXT, blank.raw))


@lru_cache(maxsize=4096)  # the same card comes from many
def read_card(data: bytes) -> Card:
    """Return the card that ``data`` is.

    Raises:
        ProtocolError: it is damaged, or its owner did not sign it.
    """
    if len(data) > MAX_CARD_BYTES:
        raise ProtocolError(f"a card of {len(data)} bytes, above {MAX_CARD_BYTES}")
    reader = Reader(data)
    peer = peer_of(bytes(reader.take(32)))
    boot, counter = bytes(reader.take(BOOT_BYTES)), reader.varint(MAX_COUNTER)
    anchor = bytes(reader.take(LINK_BYTES))
    about = _read_about(reader, peer)
    card = Card(peer, boot, counter, anchor, about, bytes(reader.take(SIGNATURE_BYTES)))
    if reader.left() or card.raw != data:
        raise ProtocolError("a card in a form that nobody writes")
    if not verify(peer, CONTEXT, card.unsigned(), card.signature):
        raise ProtocolError(f"{peer} did not sign this card")
    return card


def _read_about(reader: Reader, peer: PeerId) -> About:
    program = reader.text(_PROGRAM_BYTES)
    wrong = fault_of(program)
    if wrong:
        raise ProtocolError(f"the version of a program {wrong}")
    role, flags = role_of(reader.take(1)[0]), reader.take(1)[0]
    data, splice, whoami = (reader.varint(MAX_PORT) for _ in range(3))
    load, count = reader.varint(MAX_LOAD), reader.take(1)[0]
    if flags > _RELAYS | _TRAINS or count > MAX_ADDRESSES:
        raise ProtocolError(f"a card with flags {flags} and {count} addresses")
    addresses = tuple(_own(reader.text(MAX_CHARS), peer) for _ in range(count))
    name = reader.text(_NAME_BYTES)
    wrong = fault_of(name) if name else None
    if wrong:
        raise ProtocolError(f"the name of {peer} {wrong}")
    return About(
        addresses,
        program,
        role,
        relays=bool(flags & _RELAYS),
        trains=bool(flags & _TRAINS),
        data_port=data,
        splice_port=splice,
        whoami_port=whoami,
        load_percent=load,
        name=name,
    )


def _own(address: str, peer: PeerId) -> str:
    if not check_address(address).endswith(f"/p2p/{peer}"):
        raise ProtocolError(f"{peer} names an address of somebody else")
    return address


def packed_beats(beats: Iterable[Beat]) -> bytes:
    """Return ``beats`` as they are in a message."""
    return b"".join(starmap(_BEAT.pack, beats))


def read_beats(data: bytes) -> list[Beat]:
    """Return the beats that ``data`` is; only ``follows`` says whether they are true.

    Raises:
        ProtocolError: it is cut short, or a card cannot have so many.
    """
    if len(data) % BEAT_BYTES:
        raise ProtocolError(f"{len(data)} bytes are no number of beats")
    beats = [*map(Beat._make, _BEAT.iter_unpack(data))]
    if any(beat.number > MAX_BEATS for beat in beats):
        raise ProtocolError(f"more than {MAX_BEATS} beats of one card")
    return beats
