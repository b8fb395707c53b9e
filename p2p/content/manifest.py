"""What a blob is made of: its size, its kind, and the SHA-256 of every chunk.

A manifest is small, so it is fetched first and checked by the blob's id; from then on
every chunk can be checked alone, whoever sent it. One blob has one manifest: the size
of chunks follows from the size of the blob.

Layout: ``FB``, 1 (version), the kind as text, the size as a varint, the digests.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import shown
from fedcore.wire import Reader, text, varint
from p2p.content.cid import DIGEST_BYTES, Cid, cid_of

KIB, MIB = 1 << 10, 1 << 20
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 256 * KIB, MIB
EASY_CHUNKS = 2048  # so many are no trouble; larger blobs get larger chunks
MAX_CHUNKS = 32_000  # a manifest then fits into a message of 1 MiB
MAX_BLOB_BYTES = MAX_CHUNKS * MAX_CHUNK_BYTES
MAX_MANIFEST_BYTES = MAX_CHUNKS * DIGEST_BYTES + 64
BYTES, SAFETENSORS = "bytes", "safetensors"  # kinds; others are allowed
_KIND = re.compile("[a-z0-9][a-z0-9.-]{0,31}")
_START = b"FB\x01"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of one blob.

    Attributes:
        size_bytes: of the blob, 0 to ``MAX_BLOB_BYTES``.
        digests: SHA-256 of each chunk, one after the other.
        kind: what the bytes are, such as "safetensors"; a word of [a-z0-9.-].

    Raises:
        ProtocolError: these cannot be the parts of a blob.
    """

    size_bytes: int
    digests: bytes
    kind: str = BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise ProtocolError(f"a blob of {shown(self.size_bytes)} bytes")
        if not _KIND.fullmatch(self.kind):
            raise ProtocolError(f"{shown(self.kind)} is no kind of blob")
        if len(self.digests) != DIGEST_BYTES * self.chunks:
            found = len(self.digests)
            raise ProtocolError(f"{found} bytes of digests for {self.chunks} chunks")

    @property
    def chunk_bytes(self) -> int:
        """The size of every chunk but the last, which may be shorter."""
        return chunk_bytes_of(self.size_bytes)

    @property
    def chunks(self) -> int:
        """How many chunks there are; none in an empty blob."""
        return -(-self.size_bytes // self.chunk_bytes)

    @property
    def cid(self) -> Cid:
        """The id of the blob."""
        return cid_of(encode_manifest(self))

    def span(self, index: int) -> tuple[int, int]:
        """Return where chunk ``index`` begins, and its size, in bytes."""
        begin = index * self.chunk_bytes
        return begin, min(self.chunk_bytes, self.size_bytes - begin)

    def fits(self, index: int, data: bytes | memoryview) -> bool:
        """Return whether ``data`` is chunk ``index``."""
        if len(data) != self.span(index)[1]:
            return False
        at = index * DIGEST_BYTES
        told = self.digests[at : at + DIGEST_BYTES]
        return hashlib.sha256(data).digest() == told


def chunk_bytes_of(size_bytes: int) -> int:
    """Return the size of chunks of a blob of ``size_bytes``: 256, 512 or 1024 KiB."""
    size = MIN_CHUNK_BYTES
    while size < MAX_CHUNK_BYTES and size_bytes > size * EASY_CHUNKS:
        size *= 2
    return size


def manifest_of(data: bytes, kind: str = BYTES) -> Manifest:
    """Return the manifest of ``data``.

    Raises:
        ProtocolError: it is too large, or ``kind`` is no kind.
    """
    size = chunk_bytes_of(len(data))
    view = memoryview(data)
    parts = (view[at : at + size] for at in range(0, len(data), size))
    return Manifest(len(data), digests_of(parts), kind)


def digests_of(chunks: Iterable[bytes | memoryview]) -> bytes:
    """Return the SHA-256 of each of ``chunks``, one after the other."""
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes whose hash is the blob's id."""
    head = _START + text(manifest.kind) + varint(manifest.size_bytes)
    return head + manifest.digests


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_manifest`` writes.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ProtocolError(f"a manifest of {len(data)} bytes")
    reader = Reader(data)
    if reader.take(len(_START)) != _START:
        raise ProtocolError("not a manifest, or one of a newer kind")
    kind, size = reader.text(32), reader.varint(MAX_BLOB_BYTES)
    manifest = Manifest(size, bytes(reader.take(reader.left())), kind)
    if encode_manifest(manifest) != data:
        raise ProtocolError("a manifest not in the one form that is written")
    return manifest
