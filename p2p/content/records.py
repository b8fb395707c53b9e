"""What peers say to each other to find blobs, on ``/find/1``.

A peer is written as the 32 bytes of its public key; its place among others is the
SHA-256 of that, so that nobody chooses a place cheaply, and only members may ask at
all. A blob's place is the digest in its id.

A *record* says "I have this blob", signed. Its date is only compared with other dates
of the same peer, and loosely with the reader's clock: records older than a day and
their own life are refused, so an old one cannot be used for ever, and a clock that is
off by a day does no harm.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.content.cid import DIGEST_BYTES, Cid, cid_from, digest_of
from p2p.identity.keys import SIGNATURE_BYTES, Key, peer_of, public_of, verify

TOPIC = "/find/1"
NEAR, WHO, HAVE = 1, 2, 3  # who is near this place? who has this blob? I have it
K = 16  # peers in an answer, and in a bucket
MAX_RECORDS = 16  # in an answer
MAX_LIFE_S = 86_400
SKEW_S = 90_000  # clocks may differ by a day
CONTEXT = "fedcore/provide/1"
# Base 58 is slow, and the same peers are named all the time.
_peer_of = lru_cache(maxsize=8192)(peer_of)
_public_of = lru_cache(maxsize=8192)(public_of)
_TIMES = struct.Struct("<QI")
PLACE_BYTES = KEY_BYTES = 32
RECORD_BYTES = DIGEST_BYTES + KEY_BYTES + _TIMES.size + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """A peer says that it has a blob.

    Attributes:
        made_s: when, in whole seconds since the epoch, by the peer's own clock.
        life_s: for how long it may be believed; 0 takes it back.
    """

    cid: Cid
    peer: PeerId
    made_s: int
    life_s: int
    signature: bytes


@lru_cache(maxsize=8192)
def place_of(peer: PeerId) -> int:
    """Return where a peer is, in [0, 2^256).

    Raises:
        ProtocolError: ``peer`` is not the id of an Ed25519 key.
    """
    return int.from_bytes(hashlib.sha256(_public_of(peer)).digest(), "big")


def target_of(cid: Cid) -> int:
    """Return where the records of a blob belong, in [0, 2^256)."""
    return int.from_bytes(digest_of(cid), "big")


def make_record(key: Key, network: str, cid: Cid, made_s: float, life_s: int) -> Record:
    """Return a record signed by ``key``, good in ``network`` only."""
    body = _body(cid, key.peer, int(made_s), life_s)
    signature = key.sign(CONTEXT, network.encode() + body)
    return Record(cid, key.peer, int(made_s), life_s, signature)


def check_record(record: Record, network: str, wall_s: float) -> None:
    """Raise ProtocolError unless ``record`` may be believed at ``wall_s``."""
    body = _body(record.cid, record.peer, record.made_s, record.life_s)
    if record.life_s > MAX_LIFE_S:
        raise ProtocolError(f"a record that wants to live {record.life_s} s")
    age_s = wall_s - record.made_s
    if not -SKEW_S <= age_s <= record.life_s + SKEW_S:
        raise ProtocolError(f"a record of {age_s:.0f} s ago")
    signed = network.encode() + body
    if not verify(record.peer, CONTEXT, signed, record.signature):
        raise ProtocolError(f"a record that {record.peer} did not sign")


def encode_record(record: Record) -> bytes:
    """Return ``record`` as ``RECORD_BYTES`` bytes."""
    body = _body(record.cid, record.peer, record.made_s, record.life_s)
    return body + record.signature


def decode_record(data: bytes) -> Record:
    """Return the record in ``data``; not checked.

    Raises:
        ProtocolError: it is no record.
    """
    if len(data) != RECORD_BYTES:
        raise ProtocolError(f"a record of {len(data)} bytes")
    cid, peer = cid_from(data[:32]), _peer_of(data[32:64])
    made_s, life_s = _TIMES.unpack_from(data, 64)
    return Record(cid, peer, made_s, life_s, data[64 + _TIMES.size :])


def encode_near(place: int) -> bytes:
    """Return the ask for peers near ``place``."""
    return bytes([NEAR]) + place.to_bytes(PLACE_BYTES, "big")


def encode_who(cid: Cid) -> bytes:
    """Return the ask for records of a blob, and for peers near it."""
    return bytes([WHO]) + digest_of(cid)


def encode_have(record: Record) -> bytes:
    """Return the ask to keep a record."""
    return bytes([HAVE]) + encode_record(record)


def decode_question(data: bytes) -> int | Cid | Record:
    """Return what is asked: a place, a blob, or to keep a record.

    Raises:
        ProtocolError: ``data`` is not what the encoders write.
    """
    kind, rest = data[:1], bytes(data[1:])
    if kind == bytes([HAVE]):
        return decode_record(rest)
    if kind not in (bytes([NEAR]), bytes([WHO])) or len(rest) != PLACE_BYTES:
        raise ProtocolError(f"a question of {len(data)} bytes that nobody asks")
    return cid_from(rest) if kind == bytes([WHO]) else int.from_bytes(rest, "big")


def encode_found(peers: Sequence[PeerId], records: Sequence[Record]) -> bytes:
    """Return the answer to both questions: peers nearer to it, and records."""
    head = bytes([len(peers), len(records)])
    return b"".join(
        [head, *map(_public_of, peers), *(encode_record(r) for r in records)]
    )


def decode_found(data: bytes) -> tuple[list[PeerId], list[Record]]:
    """Return the peers and records in an answer; the records are not checked.

    Raises:
        ProtocolError: ``data`` is not what ``encode_found`` writes, or names a peer
            twice.
    """
    reader = Reader(data)
    peers, records = reader.take(1)[0], reader.take(1)[0]
    size = peers * KEY_BYTES + records * RECORD_BYTES
    if peers > K or records > MAX_RECORDS or reader.left() != size:
        raise ProtocolError(f"{peers} peers, {records} records, {len(data)} bytes")
    named = [_peer_of(bytes(reader.take(KEY_BYTES))) for _ in range(peers)]
    found = [decode_record(bytes(reader.take(RECORD_BYTES))) for _ in range(records)]
    if len(set(named)) < peers or len({r.peer for r in found}) < records:
        raise ProtocolError("an answer that names a peer twice")
    return named, found


def _body(cid: Cid, peer: PeerId, made_s: int, life_s: int) -> bytes:
    return digest_of(cid) + _public_of(peer) + _TIMES.pack(made_s, life_s)
