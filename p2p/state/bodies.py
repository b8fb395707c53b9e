"""What entries say: one small class for each kind, and its bytes.

Every value has one form in bytes, and only that is read. Registers carry a *lamport*
number, one above the highest their writer had seen; of two values the one of the higher
number counts, and of equal numbers the one of the greater writer.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown
from fedcore.wire import Reader, check_name, signed, text, varint
from p2p.identity.removals import Removal, read_removal
from p2p.state.chain import HASH_BYTES, Entry, Kind

MAX_LAMPORT = 1 << 48
MAX_SCORE = 1_000_000
MAX_SIZE = 1 << 50
SPEC_BYTES = 1 << 15
_NAME_BYTES = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Presence:
    """A member goes, or is back; said by itself. Kinds LEAVE and RETURN."""

    lamport: int

    def encode(self) -> bytes:
        """Return the body."""
        return varint(_within(self.lamport, MAX_LAMPORT))


@dataclass(frozen=True, slots=True)
class Run:
    """What a run is. Kind RUN, by admins.

    Attributes:
        name: of the run.
        lamport: see the module.
        spec: its configuration as text, at most 32 KiB.
        origin: pool, base and scale of its shared-seed model, as the text "word base
            scale" with the scale in hexadecimal; "" if it has no such model.
    """

    name: str
    lamport: int
    spec: str
    origin: str = ""

    def encode(self) -> bytes:
        """Return the body."""
        number = varint(_within(self.lamport, MAX_LAMPORT))
        return _name(self.name) + number + text(self.spec) + text(self.origin)


@dataclass(frozen=True, slots=True)
class RunFact:
    """A fact about a run's shared-seed model. Kind FACT.

    Attributes:
        run: the run's name.
        fact: from ``fedcore.orderfree.encode_fact``, its peer being the log's writer.
    """

    run: str
    fact: bytes

    def encode(self) -> bytes:
        """Return the body."""
        return _name(self.run) + self.fact


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model of a run that can be had from the content store. Kind CHECKPOINT.

    Attributes:
        run: the run's name.
        version: of the model, >= 0.
        cid: content id.
        size_bytes: of the content.
        state: SHA-256 of the state it was made from, in hex.
    """

    run: str
    version: int
    cid: str
    size_bytes: int
    state: str

    def encode(self) -> bytes:
        """Return the body."""
        if not _SHA256.fullmatch(self.state):
            raise ProtocolError(f"{shown(self.state)} is no SHA-256 in hex")
        numbers = varint(_within(self.version, MAX_LAMPORT))
        size = varint(_within(self.size_bytes, MAX_SIZE))
        head = _name(self.run) + numbers + _name(self.cid)
        return head + size + bytes.fromhex(self.state)


@dataclass(frozen=True, slots=True)
class Score:
    """What one peer thinks of another. Kind SCORE.

    Attributes:
        ratee: the peer that is rated.
        lamport: see the module.
        millionths: 0 .. 1 000 000.
    """

    ratee: PeerId
    lamport: int
    millionths: int

    def encode(self) -> bytes:
        """Return the body."""
        lamport = varint(_within(self.lamport, MAX_LAMPORT))
        return _name(self.ratee) + lamport + varint(_within(self.millionths, MAX_SCORE))


@dataclass(frozen=True, slots=True)
class Count:
    """Something to be added to a counter. Kind COUNT.

    Attributes:
        origin: the link of the entry that first said it, if that was cut off a log of
            the same peer: copies of a disk may say it again, and it counts once. Empty
            if this is the first.
    """

    name: str
    amount: int
    origin: bytes = b""

    def encode(self) -> bytes:
        """Return the body."""
        _within(abs(self.amount), MAX_SIZE)
        if len(self.origin) not in (0, HASH_BYTES):
            raise ProtocolError(f"{len(self.origin)} bytes are no link")
        return _name(self.name) + signed(self.amount) + self.origin


@dataclass(frozen=True, slots=True)
class Note:
    """A change of a free document. Kind NOTE.

    Attributes:
        document: its name.
        update: as the package ``pycrdt`` makes it.
    """

    document: str
    update: bytes

    def encode(self) -> bytes:
        """Return the body."""
        return _name(self.document) + self.update


B = TypeVar("B")
Body = Presence | Run | RunFact | Checkpoint | Score | Count | Note | Removal


def read_body(kind: Kind, data: bytes) -> Body:
    """Return what the body of an entry says.

    Raises:
        ProtocolError: it is not what ``encode`` writes for this kind.
    """
    if kind == Kind.REMOVAL:
        return read_removal(data)
    if kind not in _READERS:
        raise ProtocolError(f"entries of kind {kind.name} have no body of their own")
    reader = Reader(data)
    body: Body = _READERS[kind](reader)
    if reader.left() or body.encode() != data:
        raise ProtocolError("not in the one form that is written")
    return body


def read_as(kind_of: type[B], entry: Entry) -> B:
    """Return what ``entry`` says, which must be of this class.

    Raises:
        ProtocolError: it is of another, or cannot be read.
    """
    body = read_body(entry.kind, entry.body)
    if not isinstance(body, kind_of):
        raise ProtocolError(
            f"an entry of kind {entry.kind.name} is no {kind_of.__name__}"
        )
    return body


def said_again(entry: Entry, link: bytes) -> Entry:
    """Return ``entry``, cut off where it had this link, as another log is to say it."""
    if entry.kind == Kind.COUNT:
        with suppress(ProtocolError):
            body = read_as(Count, entry)
            again = replace(body, origin=body.origin or link)
            return Entry(Kind.COUNT, again.encode())
    return entry


def _within(value: int, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ProtocolError(f"{shown(value)} is not in 0 .. {limit}")
    return value


def _name(value: str) -> bytes:
    check_name(value)
    return text(value)


def _read_name(reader: Reader) -> str:
    value = reader.text(_NAME_BYTES)
    check_name(value)
    return value


def _rest(reader: Reader) -> bytes:
    return bytes(reader.take(reader.left()))


def _lamport(reader: Reader) -> int:
    return reader.varint(MAX_LAMPORT)


def _read_run(reader: Reader) -> Run:
    name, lamport = _read_name(reader), _lamport(reader)
    return Run(name, lamport, reader.text(SPEC_BYTES), reader.text(_NAME_BYTES))


def _read_checkpoint(reader: Reader) -> Checkpoint:
    run, version, cid = _read_name(reader), _lamport(reader), _read_name(reader)
    size = reader.varint(MAX_SIZE)
    return Checkpoint(run, version, cid, size, bytes(reader.take(32)).hex())


def _read_score(reader: Reader) -> Score:
    ratee, lamport = _read_name(reader), _lamport(reader)
    return Score(ratee, lamport, reader.varint(MAX_SCORE))


_READERS: dict[Kind, Callable[[Reader], Any]] = {
    Kind.LEAVE: lambda reader: Presence(_lamport(reader)),
    Kind.RETURN: lambda reader: Presence(_lamport(reader)),
    Kind.RUN: _read_run,
    Kind.FACT: lambda reader: RunFact(_read_name(reader), _rest(reader)),
    Kind.CHECKPOINT: _read_checkpoint,
    Kind.SCORE: _read_score,
    Kind.COUNT: lambda reader: Count(
        _read_name(reader), reader.signed(), _rest(reader)
    ),
    Kind.NOTE: lambda reader: Note(_read_name(reader), _rest(reader)),
}
