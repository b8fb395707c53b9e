"""Blobs on a disk: whole ones, parts of others, and which may go when room is short.

A blob lies in a few files named by its id: ``.manifest`` (checked by the id), ``.blob``
when it is whole, ``.part`` and ``.have`` (one byte a chunk) while it is not, and
``.pin``. The folder is the truth; there is no index that could disagree with it.

Order of writing, so that a crash at any point loses at most chunks in flight: a chunk,
then its byte in ``.have``. The program may be killed in between; the power may fail
and leave the byte without the chunk, and so chunks that are to be built upon after a
restart are hashed again (1.7 GB/s). Every read is checked against the manifest, so
damage is found where it is met: the chunk is forgotten, and can be fetched again.

Room: pinned blobs and those being fetched never go; then whoever was used longest ago.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress

from fedcore.errors import ProtocolError, StorageError
from p2p.content.cid import DIGEST_BYTES, Cid, digest_of
from p2p.content.kept import Blob, Kept, found
from p2p.content.manifest import Manifest, chunk_bytes_of, encode_manifest
from p2p.content.space import Space

GIB = 1 << 30
MAX_PARTIAL = 8


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

    # What is here

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

    def begin(self, manifest: Manifest) -> None:
        """Be ready for the chunks of a blob, and hold it until ``release``.

        Chunks from before a restart are hashed again here; bad ones are forgotten.

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
            if not kept.sure and not kept.whole:
                self._recheck(cid, kept)
            self._finish_if_whole(cid, kept)

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
        """End a ``claim``: the draft holds the blob of ``manifest``; None: drop it."""
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
        self.space.sync(draft)
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
        self._make_way()
        kept = Kept(manifest, bytearray(manifest.chunks), False, sure=True)
        self._make_room(kept.cost_bytes)
        try:
            self.space.replace(f"{cid}.manifest", encode_manifest(manifest))
            self.space.reserve(f"{cid}.have", manifest.chunks)
            self.space.reserve(f"{cid}.part", manifest.size_bytes)
        except StorageError:
            self.remove(cid)
            raise
        self._kept[cid] = kept

    def _recheck(self, cid: Cid, kept: Kept) -> None:
        """Forget the chunks that a power cut took; see the module."""
        for index, here in enumerate(kept.have):
            data = self.space.read(f"{cid}.part", *kept.manifest.span(index))
            if here and not kept.manifest.fits(index, data):
                self._forget(cid, kept, index)
        kept.sure = True

    def _finish_if_whole(self, cid: Cid, kept: Kept) -> None:
        if kept.whole or not all(kept.have):
            return
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
        kept.whole, kept.sure = False, True

    def _use(self, cid: Cid, kept: Kept) -> None:
        self._uses += 1
        kept.used = self._uses
        self.space.use(f"{cid}.manifest")

    def _make_way(self) -> None:
        """Have at most ``max_partial`` blobs in part, after one more."""
        parts = {cid: k for cid, k in self._kept.items() if not k.whole}
        if len(parts) < self.max_partial:
            return
        idle = [cid for cid in parts if parts[cid].may_go]
        if not idle:
            raise StorageError(
                f"{len(parts)} blobs are being fetched already; wait, or cancel one"
            )
        self.remove(min(idle, key=lambda cid: parts[cid].used))

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was used longest ago until so much more fits in the quota."""
        short = self.total_bytes() + size_bytes - self.quota_bytes
        going = []
        for cid, kept in sorted(self._kept.items(), key=lambda item: item[1].used):
            if short > 0 and kept.may_go:
                going.append(cid)
                short -= kept.cost_bytes
        if short > 0:
            raise StorageError(
                f"no room for {size_bytes} bytes: the quota of {self.quota_bytes} is "
                f"short by {short}; unpin or remove blobs, or raise the quota"
            )
        for cid in going:
            self.remove(cid)
