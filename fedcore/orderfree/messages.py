"""Facts and models as bytes, and back. Bytes from a peer never become code.

Layout of a message, numbers little-endian::

    2 bytes    "FO"
    1 byte     "F" a fact, "W" a withdrawal, "S" a snapshot, "T" a total
    1 byte     1, the version of this layout
    origin     word of the pool, 32 bytes of the base, scale as float64
    rest       as written here

The same value always has the same bytes, and bytes that are not exactly what would
be written are refused: the SHA-256 of a snapshot names the facts in it. There is no
check sum: a damaged fact does not give the register that it says, and a snapshot is
asked for by its hash. Whoever signs facts signs these bytes.

Memory is at most some ten times the bytes that are there, and 1 kB for each peer.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import torch
from torch import Tensor

from fedcore.errors import ConfigError, ProtocolError
from fedcore.orderfree.facts import Fact, Origin, Withdrawal
from fedcore.orderfree.model import PEERS, Model, Register, past_of
from fedcore.orderfree.packing import packed, packed_places, read_packed, read_places
from fedcore.pool import Pool
from fedcore.strategy import PeerId
from fedcore.wire import Reader, check_name, integers, names, text, varint

LAYOUT = 1
FACT_BYTES = 1 << 20  # longest fact: 2^16 coefficients of 8 bytes, their places, names
MODEL_BYTES = 1 << 30  # longest snapshot or total
EPOCHS = 1 << 12  # each takes a pass over the weights
_START = b"FO"
_WORD_BYTES = 64  # longest word of a pool
_NAME_BYTES = 1024
_SCALE = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Total:
    """What a model comes to, without who added what.

    Attributes:
        coefficients: one row an epoch, int64 (epochs, K), >= 1 row.
        state: SHA-256 of the snapshot of the model it was taken from, in hex.
    """

    origin: Origin
    coefficients: Tensor
    state: str


def encode_fact(fact: Fact | Withdrawal) -> bytes:
    """Return ``fact`` as bytes: what its peer signs.

    Raises:
        ProtocolError: it is not one that could be counted: a bad name, an index that
            does not fit.
    """
    check_name(fact.peer)
    if isinstance(fact, Withdrawal):
        return _start(b"W", fact.origin) + text(fact.peer)
    count, size = len(fact.indices), fact.origin.pool.size
    parts = [
        _start(b"F", fact.origin),
        varint(fact.epoch),
        text(fact.peer),
        varint(fact.seq),
        bytes.fromhex(fact.after),
        varint(count),
        packed_places(fact.indices, size),
        packed(fact.amounts),
    ]
    return b"".join(parts)


def decode_fact(data: bytes) -> Fact | Withdrawal:
    """Return the fact in ``data``; whether it counts is for ``fault`` to say.

    Raises:
        ProtocolError: ``data`` is not what ``encode_fact`` writes, or too long.
    """
    reader, kind, origin = _opened(data, b"FW", FACT_BYTES)
    fact = _read_fact(reader, origin) if kind == b"F" else _read_out(reader, origin)
    _check_exact(reader, data, encode_fact(fact))
    return fact


def snapshot(model: Model) -> bytes:
    """Return all of ``model``: some ``8 K`` bytes a peer and closed epoch, or less."""
    peers = sorted(model.registers)
    registers = [model.registers[peer] for peer in peers]
    parts = [
        _start(b"S", model.origin),
        varint(model.clipped),
        _rows(model.closed),
        _peers(sorted(model.withdrawn)),
        _peers(peers),
        integers([register.seq for register in registers]),
        integers([register.clipped for register in registers]),
        *(packed(register.coefficients) for register in registers),
    ]
    return b"".join(parts)


def read_snapshot(data: bytes) -> Model:
    """Return the model in ``data``.

    Its numbers are within reach; that peers did say them is not checked here: compare
    ``hash_of`` with others', or registers' ``head_of`` with facts that are signed.

    Raises:
        ProtocolError: ``data`` is not what ``snapshot`` writes, or too long.
    """
    reader, _, origin = _opened(data, b"S", MODEL_BYTES)
    clipped = reader.varint()
    closed = _read_rows(reader, origin, least=0)
    withdrawn, peers = _read_peers(reader), _read_peers(reader)
    registers = _read_registers(reader, origin, peers)
    if not registers.keys().isdisjoint(withdrawn):
        raise ProtocolError("a peer that is left out has a register")
    past = past_of(origin, closed, clipped)
    model = Model(origin, closed, past, registers, frozenset(withdrawn), clipped)
    _check_exact(reader, data, snapshot(model))
    return model


def hash_of(model: Model) -> str:
    """Return the SHA-256 of the snapshot of ``model``, in hex.

    Two models have the same one exactly when they hold the same facts.
    """
    return sha256(snapshot(model)).hexdigest()


def encode_total(model: Model) -> bytes:
    """Return what ``model`` comes to: ``8 K`` bytes an epoch or less."""
    return _total(Total(model.origin, model.coefficients(), hash_of(model)))


def decode_total(data: bytes) -> Total:
    """Return the total in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_total`` writes, or too long.
    """
    reader, _, origin = _opened(data, b"T", MODEL_BYTES)
    state = bytes(reader.take(32)).hex()
    total = Total(origin, _read_rows(reader, origin, least=1), state)
    _check_exact(reader, data, _total(total))
    return total


def kind_of(data: bytes) -> str:
    """Return "F", "W", "S" or "T", as ``data`` says; "" if it is none of these."""
    kind = data[2:3]
    known = data[:2] == _START and kind in (b"F", b"W", b"S", b"T")
    return kind.decode() if known else ""


def _start(kind: bytes, origin: Origin) -> bytes:
    base, scale = bytes.fromhex(origin.base), _SCALE.pack(origin.scale)
    return b"".join(
        [_START, kind, bytes([LAYOUT]), text(origin.pool.word()), base, scale]
    )


def _opened(data: bytes, kinds: bytes, limit: int) -> tuple[Reader, bytes, Origin]:
    """Return a reader of ``data`` past its origin, its kind and its origin."""
    if len(data) > limit:
        raise ProtocolError(f"{len(data)} bytes, above {limit}")
    reader = Reader(data)
    magic, kind = bytes(reader.take(2)), bytes(reader.take(1))
    layout = reader.take(1)[0]
    if magic != _START or kind not in kinds:
        raise ProtocolError(f"not a message of kind {kinds.decode()}")
    if layout != LAYOUT:
        raise ProtocolError(f"layout {layout}, but this program knows {LAYOUT}")
    return reader, kind, _read_origin(reader)


def _read_origin(reader: Reader) -> Origin:
    pool = Pool.of(reader.text(_WORD_BYTES))
    base = bytes(reader.take(32)).hex()
    (scale,) = _SCALE.unpack(reader.take(8))
    try:
        return Origin(pool, base, scale)
    except ConfigError as error:
        raise ProtocolError(str(error)) from error


def _check_exact(reader: Reader, data: bytes, again: bytes) -> None:
    """Refuse bytes that are not the ones that would have been written."""
    if reader.left():
        raise ProtocolError(f"{reader.left()} stray bytes at the end")
    if data != again:
        raise ProtocolError("not in the one form that the encoder writes")


def _read_fact(reader: Reader, origin: Origin) -> Fact:
    epoch, peer = reader.varint(), reader.text(_NAME_BYTES)
    check_name(peer)
    seq, after = reader.varint(), bytes(reader.take(32)).hex()
    count = reader.varint(origin.pool.size)
    places = read_places(reader, count, origin.pool.size)
    return Fact(origin, epoch, peer, seq, after, places, read_packed(reader, count))


def _read_out(reader: Reader, origin: Origin) -> Withdrawal:
    peer = reader.text(_NAME_BYTES)
    check_name(peer)
    return Withdrawal(origin, peer)


def _total(total: Total) -> bytes:
    state, rows = bytes.fromhex(total.state), _rows(total.coefficients)
    return _start(b"T", total.origin) + state + rows


def _rows(rows: Tensor) -> bytes:
    out = bytearray(varint(len(rows)))
    for i in range(len(rows)):  # to go through ``rows`` itself makes them all at once
        out += packed(rows[i])
    return bytes(out)


def _read_rows(reader: Reader, origin: Origin, least: int) -> Tensor:
    count, size = reader.varint(EPOCHS), origin.pool.size
    if count < least:
        raise ProtocolError(f"{count} epochs, not {least} or more")
    if count * (1 + size) > reader.left():
        raise ProtocolError(f"cut short: {count} epochs in {reader.left()} bytes")
    rows = torch.empty((count, size), dtype=torch.int64)  # at most 8 times those bytes
    for i in range(count):
        rows[i] = _read_row(reader, origin)
    return rows


def _read_row(reader: Reader, origin: Origin) -> Tensor:
    row = read_packed(reader, origin.pool.size)
    low, high = (int(end) for end in torch.aminmax(row))
    if max(high, -low) > origin.reach:
        raise ProtocolError(f"a coefficient beyond {origin.reach}")
    return row


def _peers(peers: Sequence[PeerId]) -> bytes:
    return varint(len(peers)) + names(peers)


def _read_peers(reader: Reader) -> list[PeerId]:
    found = reader.names(reader.varint(PEERS))
    if any(a >= b for a, b in pairwise(found)):
        raise ProtocolError("names of peers are not sorted, or one comes twice")
    return found


def _read_registers(
    reader: Reader, origin: Origin, peers: Sequence[PeerId]
) -> dict[PeerId, Register]:
    seqs, clips = reader.integers(len(peers)), reader.integers(len(peers))
    if min(seqs, default=1) < 1 or min(clips, default=0) < 0:
        raise ProtocolError("a register with a number below 1, or of clips below 0")
    return {
        peer: Register(seq, _read_row(reader, origin), clips_of)
        for peer, seq, clips_of in zip(peers, seqs, clips, strict=True)
    }
