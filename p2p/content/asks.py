"""What peers say to each other about blobs, on ``/swarm/1``; all of it a few bytes.

An ask is one byte, the digest in the blob's id, and for a chunk its index. Answers: a
*stock* (which chunks a peer has), a manifest, or the bare bytes of a chunk, so that a
channel can receive them in place. A told message is a digest and a stock.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ProtocolError
from p2p.content.cid import DIGEST_BYTES, Cid, cid_from, digest_of
from p2p.content.manifest import MAX_CHUNKS

Flags = NDArray[np.bool_]

TOPIC = "/swarm/1"
WHAT, MANIFEST, CHUNK = 1, 2, 3  # what do you have of it? its manifest; a chunk
_NONE, _ALL, _SOME = b"\x00", b"\x01", b"\x02"
_INDEX = struct.Struct("<I")
MAX_STOCK_BYTES = 1 + MAX_CHUNKS // 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """One ask. ``index`` is that of a chunk, and 0 in other asks."""

    kind: int
    cid: Cid
    index: int = 0


def encode_ask(ask: Wanted) -> bytes:
    """Return ``ask`` as bytes."""
    head = bytes([ask.kind]) + digest_of(ask.cid)
    return head + _INDEX.pack(ask.index) if ask.kind == CHUNK else head


def decode_ask(data: bytes) -> Wanted:
    """Return the ask in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_ask`` writes.
    """
    kind = data[0] if data else 0
    size = 1 + DIGEST_BYTES + (_INDEX.size if kind == CHUNK else 0)
    if kind not in (WHAT, MANIFEST, CHUNK) or len(data) != size:
        raise ProtocolError(f"an ask of kind {kind} with {len(data)} bytes")
    cid = cid_from(data[1 : 1 + DIGEST_BYTES])
    index = _INDEX.unpack(data[1 + DIGEST_BYTES :])[0] if kind == CHUNK else 0
    return Wanted(kind, cid, index)


def encode_stock(have: bytes) -> bytes:
    """Return which chunks are here; ``have`` holds one byte, 0 or 1, for each."""
    flags = np.frombuffer(have, np.uint8)
    if flags.all():
        return _ALL
    packed = np.packbits(flags, bitorder="little").tobytes()
    return _SOME + packed if flags.any() else _NONE


def nothing() -> bytes:
    """Return the stock of a peer that knows nothing of the blob."""
    return _NONE


def decode_stock(data: bytes, chunks: int) -> Flags:
    """Return which of ``chunks`` chunks a peer has.

    Raises:
        ProtocolError: ``data`` is not what ``encode_stock`` writes.
    """
    if data in (_NONE, _ALL):
        return np.full(chunks, data == _ALL)
    if data[:1] != _SOME or len(data) != 1 + -(-chunks // 8):
        raise ProtocolError(f"a stock of {len(data)} bytes for {chunks} chunks")
    packed = np.frombuffer(data, np.uint8, offset=1)
    flags = np.unpackbits(packed, count=chunks, bitorder="little")
    if encode_stock(flags.tobytes()) != data:
        raise ProtocolError("a stock not in the one form that is written")
    return flags.astype(np.bool_)


def is_stock(data: bytes) -> bool:
    """Return whether ``data`` may be the stock of a blob not known yet, not empty."""
    return data == _ALL or (data[:1] == _SOME and 1 < len(data) <= MAX_STOCK_BYTES)


def encode_told(cid: Cid, have: bytes) -> bytes:
    """Return the message that tells others what is here of a blob."""
    return digest_of(cid) + encode_stock(have)


def decode_told(data: bytes) -> tuple[Cid, bytes]:
    """Return the blob and the stock in a told message; the stock is not checked.

    Raises:
        ProtocolError: it is too short or too long for both.
    """
    if not DIGEST_BYTES < len(data) <= DIGEST_BYTES + MAX_STOCK_BYTES:
        raise ProtocolError(f"{len(data)} bytes are no digest and stock")
    return cid_from(data[:DIGEST_BYTES]), data[DIGEST_BYTES:]
