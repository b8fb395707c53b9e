"""Blobs on a disk: whole ones, parts of others, and which may go when room is short.

A blob lies in a few files named by its id: ``.manifest`` (checked by the id), ``.blob``
when it is whole, ``.part`` and ``.have`` (one byte a chunk) while it is not, and
``.pin``. The folder is the truth; there is no index that could disagree with it.

Order of writing, so that a crash at any point loses at most chunks in flight: a chunk,
then its byte in ``.have``. The program may be killed in between; the power may fail
and leave the byte without the chunk, and so chunks that are to be built upon after a
restart are hashed again. Every read is checked against the manifest, so damage is found
where it is met: the chunk is forgotten, and can be fetched again. What takes long is
done in slices, so that nobody waits for it: ``begin`` hashes as much as it is told to,
and chunks become durable a few at a time, so that little is left at the end.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress

from fedcore.errors import ProtocolError, StorageError
from p2p.content import room
from p2p.content.cid import DIGEST_BYTES, Cid, digest_of
from p2p.content.kept import Blob, Kept, found
from p2p.content.manifest import Manifest, chunk_bytes_of, encode_manifest
from p2p.content.space import Space

GIB = 1 << 30
MAX_PARTIAL = 8
SYNC_BYTES = 16 << 20  # made durable at a time, while others go on


class Shelf:
    """All blobs of one peer. Every method may be called from any thread.

    Args:
        space: where the files are.
        quota_bytes: most bytes of all blobs, parts in full; adding more removes the
            least recently used.
        max_partial: most blobs of which a part is here.

    Raises:
        StorageError: from every method, when the disk fails; what was there remains.
    """

    def __init__(
        self,
        space: Space,
        *,
        quota_bytes: int = 64 * GIB,
        max_partial: int = MAX_PARTIAL,
    ) -> None:
        self.space, self.quota_bytes = space, quota_bytes
        self.max_partial = max_partial
        self._lock = threading.RLock()
        self._claimed_bytes = 0  # by blobs being added
        self._serial = 0  # of drafts
        self._kept = found(space)
        self._uses = len(self._kept)

    def blobs(self) -> list[Blob]:
        """Return what is here, by id."""
        with self._lock:
            return [self._kept[cid].blob(cid) for cid in sorted(self._kept)]

    def blob(self, cid: Cid) -> Blob | None:
        """Return what is here of one blob; None if nothing."""
        with self._lock:
            return self._kept[cid].blob(cid) if cid in self._kept else None

    def manifest(self, cid: Cid) -> Manifest | None:
        """Return the manifest of a blob of which anything is here."""
        with self._lock:
            return self._kept[cid].manifest if cid in self._kept else None

    def have(self, cid: Cid) -> bytes:
        """Return one byte, 0 or 1, for each chunk; empty if the blob is unknown."""
        with self._lock:
            return bytes(self._kept[cid].have) if cid in self._kept else b""

    def total_bytes(self) -> int:
        """Return how much of the quota is taken."""
        with self._lock:
            return self._claimed_bytes + sum(k.cost_bytes for k in self._kept.values())

    # Chunks come and go

    def begin(self, manifest: Manifest, most_bytes: float = float("inf")) -> bool:
        """Be ready for the chunks of a blob, and hold it until ``release``.

        Chunks from before a restart are hashed again here; bad ones are forgotten.

        Args:
            manifest: of the blob.
            most_bytes: how much to hash, or a chunk more.

        Returns:
            Whether all of them are hashed; if not, call it again to go on.

        Raises:
            StorageError: no room, or too many blobs are here in part.
        """
        with self._lock:
            cid = manifest.cid
            if cid not in self._kept:
                self._start(cid, manifest)
            kept = self._kept[cid]
            kept.held = True
            self._use(cid, kept)
            self._recheck(cid, kept, most_bytes)
            self._finish_if_whole(cid, kept)
            return kept.sure

    def release(self, cid: Cid) -> None:
        """End what ``begin`` started: the blob may go when room is short."""
        with self._lock:
            if cid in self._kept:
                self._kept[cid].held = False

    def keep(self, cid: Cid, index: int, data: bytes | memoryview) -> bool:
        """Keep a chunk of a blob that was begun; return whether it was missing.

        Raises:
            ProtocolError: there is no such chunk, or ``data`` is not it.
        """
        with self._lock:
            kept = self._known(cid)
            if not 0 <= index < len(kept.have) or not kept.manifest.fits(index, data):
                raise ProtocolError(f"these bytes are not chunk {index} of {cid}")
            if kept.have[index]:
                return False
            self.space.write(f"{cid}.part", kept.manifest.span(index)[0], data)
            self.space.write(f"{cid}.have", index, b"\1")
            kept.have[index] = 1
            kept.unsynced_bytes += len(data)
            self._flush(cid, kept)
            self._finish_if_whole(cid, kept)
            return True

    def chunk(self, cid: Cid, index: int) -> bytes:
        """Return a chunk, checked.

        Raises:
            StorageError: it is damaged, and has been forgotten.
            ProtocolError: it is not here.
        """
        with self._lock:
            kept = self._known(cid)
            if not 0 <= index < len(kept.have) or not kept.have[index]:
                raise ProtocolError(f"chunk {index} of {cid} is not here")
            name = f"{cid}.{'blob' if kept.whole else 'part'}"
            with suppress(StorageError):
                data = self.space.read(name, *kept.manifest.span(index))
                if kept.manifest.fits(index, data):
                    self._uses += 1
                    kept.used = self._uses
                    return data
            self._forget(cid, kept, index)
        raise StorageError(f"chunk {index} of {cid} is damaged; fetch it again")

    def chunks(self, cid: Cid) -> Iterator[bytes]:
        """Yield all chunks of a blob, each checked, one at a time in memory.

        Raises:
            StorageError: one is damaged, and has been forgotten.
            ProtocolError: the blob is not here, or only a part of it.
        """
        with self._lock:
            count = len(self._known(cid).have)
            self._use(cid, self._kept[cid])
        for index in range(count):
            yield self.chunk(cid, index)

    # What may go

    def pin(self, cid: Cid, *, pinned: bool = True) -> None:
        """Keep a blob whatever happens, or no longer.

        Raises:
            ProtocolError: nothing of it is here.
        """
        with self._lock:
            kept, name = self._known(cid), f"{cid}.pin"
            self.space.replace(name, b"") if pinned else self.space.remove(name)
            kept.pinned = pinned

    def remove(self, cid: Cid) -> None:
        """Forget a blob, pinned or not."""
        with self._lock:
            self._kept.pop(cid, None)
            # The manifest last: without it a start would not know what the rest is.
            for suffix in ("pin", "have", "part", "blob", "manifest"):
                self.space.remove(f"{cid}.{suffix}")

    # Adding whole blobs: see p2p.content.adding

    def claim(self, size_bytes: int) -> str:
        """Take room for a blob whose id is not known yet; return its draft's name."""
        with self._lock:
            chunks = -(-size_bytes // chunk_bytes_of(size_bytes))
            self._make_room(size_bytes + DIGEST_BYTES * chunks)
            self._serial += 1
            name = f"{self._serial}.draft"
            self.space.reserve(name, size_bytes)
            self._claimed_bytes += size_bytes
            return name

    def settle(self, draft: str, size_bytes: int, manifest: Manifest | None) -> None:
        """End a ``claim``: the draft, synced, holds a blob; None: drop it."""
        with self._lock:
            self._claimed_bytes -= size_bytes
            try:
                if manifest is not None:
                    self._take_in(draft, manifest)  # what is here may be damaged
            finally:
                self.space.remove(draft)

    # Within

    def _take_in(self, draft: str, manifest: Manifest) -> None:
        cid = manifest.cid
        self.space.replace(f"{cid}.manifest", encode_manifest(manifest))
        self.space.rename(draft, f"{cid}.blob")
        kept = self._kept.get(cid) or Kept(manifest, bytearray(), True)
        kept.have, kept.whole = bytearray(b"\1" * manifest.chunks), True
        self._kept[cid] = kept
        for suffix in ("part", "have"):
            self.space.remove(f"{cid}.{suffix}")
        self._use(cid, kept)

    def _known(self, cid: Cid) -> Kept:
        if cid not in self._kept:
            digest_of(cid)  # says so if it is no id at all
            raise ProtocolError(f"nothing of {cid} is here")
        return self._kept[cid]

    def _start(self, cid: Cid, manifest: Manifest) -> None:
        for going in room.for_part(self._kept, self.max_partial):
            self.remove(going)
        have = bytearray(manifest.chunks)
        kept = Kept(manifest, have, False, checked=len(have))
        self._make_room(kept.cost_bytes)
        try:
            self.space.replace(f"{cid}.manifest", encode_manifest(manifest))
            self.space.reserve(f"{cid}.have", manifest.chunks)
            self.space.reserve(f"{cid}.part", manifest.size_bytes)
        except StorageError:
            self.remove(cid)
            raise
        self._kept[cid] = kept

    def _recheck(self, cid: Cid, kept: Kept, most_bytes: float) -> None:
        """Forget the chunks that a power cut took; see the module."""
        while most_bytes > 0 and not kept.sure:
            index, (begin, size) = kept.checked, kept.manifest.span(kept.checked)
            if kept.have[index]:
                data = self.space.read(f"{cid}.part", begin, size)
                if not kept.manifest.fits(index, data):
                    self._forget(cid, kept, index)
                most_bytes -= size
            kept.checked += 1

    def _flush(self, cid: Cid, kept: Kept) -> bool:
        """Make a part durable bit by bit; return whether little of it is left."""
        done = self.space.flushed(f"{cid}.part")
        if not done or kept.unsynced_bytes < SYNC_BYTES:
            return done
        self.space.flush(f"{cid}.part")
        kept.unsynced_bytes = 0
        return self.space.flushed(f"{cid}.part")

    def _finish_if_whole(self, cid: Cid, kept: Kept) -> None:
        missing = kept.whole or not kept.sure or not all(kept.have)
        if missing or not self._flush(cid, kept):
            return  # ``begin`` looks again
        self.space.sync(f"{cid}.part")
        self.space.rename(f"{cid}.part", f"{cid}.blob")
        self.space.remove(f"{cid}.have")
        kept.whole = True

    def _forget(self, cid: Cid, kept: Kept, index: int) -> None:
        kept.have[index] = 0
        if not kept.whole:
            self.space.write(f"{cid}.have", index, b"\0")
            return
        self.space.replace(f"{cid}.have", bytes(kept.have))
        self.space.rename(f"{cid}.blob", f"{cid}.part")
        kept.whole, kept.checked = False, len(kept.have)

    def _use(self, cid: Cid, kept: Kept) -> None:
        self._uses += 1
        kept.used = self._uses
        self.space.use(f"{cid}.manifest")

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was used longest ago until so much more fits in the quota."""
        total_bytes, quota_bytes = self.total_bytes(), self.quota_bytes
        for cid in room.for_bytes(self._kept, total_bytes, size_bytes, quota_bytes):
            self.remove(cid)
