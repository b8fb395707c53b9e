"""Putting whole blobs on a shelf, and taking them off; constant memory at any size."""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from fedcore.disk import told
from fedcore.errors import ConfigError, StorageError
from fedcore.names import shown
from p2p.content.cid import Cid
from p2p.content.manifest import BYTES, MAX_BLOB_BYTES, Manifest, chunk_bytes_of
from p2p.content.shelf import Shelf


def add_bytes(shelf: Shelf, data: bytes, kind: str = BYTES, *, pin: bool = True) -> Cid:
    """Put ``data`` on ``shelf``; durable on return. Returns its id.

    Raises:
        StorageError: no room; nothing changed.
        ProtocolError: ``kind`` is no kind of blob.
    """
    return _add(shelf, BytesIO(data), len(data), kind, pin=pin)


def add_file(shelf: Shelf, path: Path, kind: str = BYTES, *, pin: bool = True) -> Cid:
    """Put a copy of the file at ``path`` on ``shelf``; durable on return.

    Raises:
        ConfigError: there is no such file, it is too large, or it changes meanwhile.
        StorageError: no room, or it cannot be read; nothing changed.
    """
    if not path.is_file():
        raise ConfigError(f"{shown(str(path))} is no file; name one to be shared")
    with told(f"read {path}"), path.open("rb") as source:
        return _add(shelf, source, path.stat().st_size, kind, pin=pin)


def copy_to(shelf: Shelf, cid: Cid, path: Path) -> None:
    """Write a blob to ``path``, checked on the way; the file appears when it is whole.

    Raises:
        ConfigError: there is such a file already.
        StorageError: damage, or no room.
        ProtocolError: the blob is not here, or only a part of it.
    """
    if path.exists():
        raise ConfigError(f"{shown(str(path))} exists already; choose another name")
    draft = path.with_name(path.name + ".tmp")
    try:
        with told(f"write {path}"):
            with draft.open("wb") as out:
                out.writelines(shelf.chunks(cid))
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_bytes(shelf: Shelf, cid: Cid) -> bytes:
    """Return a whole blob, checked.

    Raises:
        StorageError: damage.
        ProtocolError: the blob is not here, or only a part of it.
    """
    return b"".join(shelf.chunks(cid))


def damaged(shelf: Shelf, cid: Cid) -> list[int]:
    """Read all that is here of a blob; return the chunks found bad, now forgotten."""
    bad = []
    for index, here in enumerate(shelf.have(cid)):
        try:
            if here:
                shelf.chunk(cid, index)
        except StorageError:
            bad.append(index)
    return bad


def _add(
    shelf: Shelf, source: BinaryIO, size_bytes: int, kind: str, *, pin: bool
) -> Cid:
    if size_bytes > MAX_BLOB_BYTES:
        raise ConfigError(f"{size_bytes} bytes; a blob has at most {MAX_BLOB_BYTES}")
    Manifest(0, b"", kind)  # says so if it is no kind
    draft, manifest = shelf.claim(size_bytes), None
    try:
        digests = b"".join(_copied(shelf, source, size_bytes, draft))
        shelf.space.sync(draft)  # takes long, so not under the shelf's lock
        manifest = Manifest(size_bytes, digests, kind)
    finally:
        shelf.settle(draft, size_bytes, manifest)
    if pin:
        shelf.pin(manifest.cid)
    return manifest.cid


def _copied(
    shelf: Shelf, source: BinaryIO, size_bytes: int, draft: str
) -> Iterator[bytes]:
    """Copy ``source`` into the draft; yield the digest of each chunk."""
    step, at = chunk_bytes_of(size_bytes), 0
    while at < size_bytes:
        data = source.read(min(step, size_bytes - at))
        if len(data) < min(step, size_bytes - at):
            raise ConfigError(f"the file ended at byte {at + len(data)}: it changes")
        shelf.space.write(draft, at, data)
        yield hashlib.sha256(data).digest()
        at += len(data)
    if source.read(1):
        raise ConfigError(f"the file is longer than {size_bytes} bytes: it changes")
