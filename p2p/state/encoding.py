"""The pieces of messages as bytes: each value in one form, which alone is accepted.

number    varint of ``fedcore.wire``, in its shortest form
bytes     number, then so many bytes
entry     kind (1 byte), body (bytes)
branch    number of digests, 33 bytes each, signature (64)
segment   writer (32), start, tag (16), number of entries, entries, branch
fork      writer (32), position, link before (32), two branches, opening (bytes)
item      writer (32), length, tag of the last link (16), position of a fork or 0, to
          which 2^20 + 1 is added if that is enough
"""

from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader, varint
from p2p.identity.keys import SIGNATURE_BYTES
from p2p.state.chain import (
    BODY_BYTES,
    HASH_BYTES,
    LOG_ENTRIES,
    MARK_ENTRIES,
    TAG_BYTES,
    Entry,
    Kind,
    raw_of,
    writer_of,
)
from p2p.state.segments import BRANCH_DIGESTS, Branch, Fork, Segment

OPENING_BYTES = 1 << 12
_ENOUGH = LOG_ENTRIES + 1
_KINDS = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Item:
    """How far a replica knows one writer.

    Attributes:
        tag: first 16 bytes of the link at ``length``. A writer could make two logs
            that share one, with 2^64 hashes, and hide that they differ; the roots of
            replicas would still tell.
        fork: the position of the fork that is known, from 1; 0 if there is none.
        enough: it has no room for more of this log, so none should be sent.
    """

    writer: PeerId
    length: int
    tag: bytes
    fork: int = 0
    enough: bool = False


def number(reader: Reader, limit: int) -> int:
    """Read a number of at most ``limit``, in its shortest form."""
    start = reader.at
    value = reader.varint(limit)
    if reader.at - start > 1 and reader.data[reader.at - 1] == 0:
        raise ProtocolError(f"a number in a long form before byte {reader.at}")
    return value


def put_bytes(data: bytes) -> bytes:
    """Return ``data`` after its length."""
    return varint(len(data)) + data


def get_bytes(reader: Reader, limit: int) -> bytes:
    """Read what ``put_bytes`` wrote, of at most ``limit`` bytes."""
    return bytes(reader.take(number(reader, limit)))


def finish(reader: Reader) -> None:
    """Raise ProtocolError if anything is left."""
    if reader.left():
        raise ProtocolError(f"{reader.left()} stray bytes at the end")


def put_entry(entry: Entry) -> bytes:
    """Return ``entry`` as bytes."""
    return bytes([entry.kind]) + put_bytes(entry.body)


def get_entry(reader: Reader) -> Entry:
    """Read an entry."""
    code = reader.take(1)[0]
    if code not in _KINDS:
        raise ProtocolError(f"an entry of unknown kind {code}")
    return Entry(_KINDS[code], get_bytes(reader, BODY_BYTES))


def put_branch(branch: Branch) -> bytes:
    """Return ``branch`` as bytes."""
    count = varint(len(branch.digests))
    return count + b"".join(branch.digests) + branch.signature


def get_branch(reader: Reader) -> Branch:
    """Read a branch."""
    count = number(reader, BRANCH_DIGESTS)
    digests = [bytes(reader.take(1 + HASH_BYTES)) for _ in range(count)]
    return Branch(tuple(digests), bytes(reader.take(SIGNATURE_BYTES)))


def put_segment(segment: Segment) -> bytes:
    """Return ``segment`` as bytes."""
    head = varint(segment.start) + segment.tag + varint(len(segment.entries))
    entries = b"".join(map(put_entry, segment.entries))
    return raw_of(segment.writer) + head + entries + put_branch(segment.rest)


def get_segment(reader: Reader) -> Segment:
    """Read a segment."""
    writer = get_writer(reader)
    start, tag = number(reader, LOG_ENTRIES), bytes(reader.take(TAG_BYTES))
    count = number(reader, MARK_ENTRIES)
    if not count:
        raise ProtocolError(f"a segment of {writer} without entries")
    entries = tuple(get_entry(reader) for _ in range(count))
    return Segment(writer, start, tag, entries, get_branch(reader))


def put_fork(fork: Fork) -> bytes:
    """Return ``fork`` as bytes."""
    branches = put_branch(fork.one) + put_branch(fork.other)
    head = raw_of(fork.writer) + varint(fork.position) + fork.before
    return head + branches + put_bytes(fork.opening)


def get_fork(reader: Reader) -> Fork:
    """Read a fork; what it proves is not yet checked."""
    writer, position = get_writer(reader), number(reader, LOG_ENTRIES)
    if not position:
        raise ProtocolError(f"a fork of {writer} before its first entry")
    before = bytes(reader.take(HASH_BYTES))
    one, other = get_branch(reader), get_branch(reader)
    opening = get_bytes(reader, OPENING_BYTES)
    return Fork(writer, position, before, one, other, opening)


def put_item(item: Item) -> bytes:
    """Return ``item`` as bytes."""
    fork = varint(item.fork + _ENOUGH * item.enough)
    return raw_of(item.writer) + varint(item.length) + item.tag + fork


def get_item(reader: Reader) -> Item:
    """Read an item."""
    writer, length = get_writer(reader), number(reader, LOG_ENTRIES)
    tag = bytes(reader.take(TAG_BYTES))
    enough, fork = divmod(number(reader, LOG_ENTRIES + _ENOUGH), _ENOUGH)
    return Item(writer, length, tag, fork, bool(enough))


def get_writer(reader: Reader) -> PeerId:
    """Read the name of a writer; any 32 bytes are one."""
    return writer_of(bytes(reader.take(HASH_BYTES)))
