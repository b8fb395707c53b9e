"""What a shelf knows about each blob, and how it finds that out from the files."""

from dataclasses import dataclass

from fedcore.errors import ProtocolError
from p2p.content.cid import Cid, cid_of
from p2p.content.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from p2p.content.space import Space

_SUFFIXES = {
    True: ("manifest", "blob", "pin"),
    False: ("manifest", "part", "have", "pin"),
}


@dataclass(frozen=True, slots=True)
class Blob:
    """What a shelf holds of one blob; fit for a catalogue.

    Attributes:
        size_bytes: of the whole blob.
        kept: how many of its ``chunks`` are here.
        pinned: never removed to make room.
    """

    cid: Cid
    kind: str
    size_bytes: int
    chunks: int
    kept: int
    pinned: bool
    whole: bool


@dataclass(slots=True)
class Kept:
    """What a shelf knows about one blob, beside its files.

    Attributes:
        have: 1 for each chunk that is here.
        used: rank of its last use; higher is later.
        checked: so many chunks of a part have been hashed since the start.
        unsynced_bytes: kept, and a power cut may still take them.
        held: it is being fetched.
    """

    manifest: Manifest
    have: bytearray
    whole: bool
    pinned: bool = False
    used: int = 0
    checked: int = 0
    unsynced_bytes: int = 0
    held: bool = False

    @property
    def cost_bytes(self) -> int:
        """The room it takes when it is whole."""
        return self.manifest.size_bytes + len(self.manifest.digests)

    @property
    def sure(self) -> bool:
        """Whether nothing that is here is left to be hashed."""
        return self.whole or self.checked == len(self.have)

    @property
    def may_go(self) -> bool:
        """Whether it may be removed to make room."""
        return not (self.pinned or self.held)

    def blob(self, cid: Cid) -> Blob:
        """Return what others may know."""
        m, have = self.manifest, sum(self.have)
        kept = (m.kind, m.size_bytes, len(self.have), have, self.pinned, self.whole)
        return Blob(cid, *kept)


def found(space: Space) -> dict[Cid, Kept]:
    """Return the blobs in ``space``; what no blob can be made of is removed.

    Raises:
        StorageError: the disk fails.
    """
    names = set(space.names())
    kept: dict[Cid, Kept] = {}
    for name in sorted(names, key=space.used):
        cid, _, suffix = name.rpartition(".")
        if suffix == "manifest":
            one = _read(space, names, cid)
            if one is not None:
                one.used = len(kept)
                kept[cid] = one
    for name in sorted(names):
        cid, _, suffix = name.rpartition(".")
        if cid not in kept or suffix not in _SUFFIXES[kept[cid].whole]:
            space.remove(name)
    return kept


def _read(space: Space, names: set[str], cid: Cid) -> Kept | None:
    """Return one blob; None if too little of it is left."""
    raw = space.read(f"{cid}.manifest", 0, MAX_MANIFEST_BYTES + 1)
    try:
        manifest = decode_manifest(raw)
    except ProtocolError:
        return None
    if cid_of(raw) != cid:
        return None
    pinned, size = f"{cid}.pin" in names, manifest.size_bytes
    if _is(space, names, f"{cid}.blob", size):
        return Kept(manifest, bytearray(b"\1" * manifest.chunks), True, pinned)
    have = f"{cid}.have"
    whole = _is(space, names, f"{cid}.part", size)
    if not whole or not _is(space, names, have, manifest.chunks):
        return None
    flags = bytearray(1 & byte for byte in space.read(have, 0, manifest.chunks))
    return Kept(manifest, flags, False, pinned)


def _is(space: Space, names: set[str], name: str, size_bytes: int) -> bool:
    return name in names and space.size(name) == size_bytes
