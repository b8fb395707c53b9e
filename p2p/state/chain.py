"""A log: entries that one writer adds, each bound by hash to all before it.

Notation: e_i = (kind, body) entry number i, from 1; h_i = its *link*, 32 bytes:

    h_0 = H("fedcore/log/1" | network | writer)
    h_i = H(h_(i-1) | i | kind | H(body))                      H = SHA-256

The writer signs some links, its *heads*; a head vouches for every entry up to it. A
body enters the chain as its digest, so that a chain can be shown without its bodies.

*Marks* are the positions whose heads are kept for ever: every 256 entries, and where
the bodies together pass a multiple of 128 KiB. They follow from the entries alone, so
that any part of a log can be handed on in pieces that verify by themselves, each of
at most 256 entries and 192 KiB.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import Key, peer_of, public_of, verify

BODY_BYTES = 1 << 16  # longest body
LOG_ENTRIES = 1 << 20  # most entries of a writer
LOG_BYTES = 1 << 32  # most bytes of a writer's bodies
WRITERS = 4096  # most writers; each has shown an opening that is valid
MARK_ENTRIES = 256
MARK_BYTES = 1 << 17
HASH_BYTES = 32
TAG_BYTES = 16  # of a link, where two replicas only compare
_HEAD = "fedcore/head/1"


class Kind(IntEnum):
    """What an entry is about. There is none for signs of life: those are told only."""

    OPENING = 0  # the first of every log, and only there
    LEAVE = 1
    RETURN = 2
    REMOVAL = 3
    RUN = 4
    FACT = 5
    CHECKPOINT = 6
    SCORE = 7
    COUNT = 8
    NOTE = 9


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was said, at most 64 KiB."""

    kind: Kind
    body: bytes


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a log ends: what it takes to add to it.

    Attributes:
        length: number of entries.
        link: h_length.
        size_bytes: of all bodies.
    """

    length: int
    link: bytes
    size_bytes: int = 0

    def plus(self, entry: Entry) -> "Tip":
        """Return where the log ends with ``entry`` added.

        Raises:
            ProtocolError: the entry is too long, or the log is full.
        """
        check_form(entry, self.length + 1)
        size = self.size_bytes + len(entry.body)
        if self.length >= LOG_ENTRIES or size > LOG_BYTES:
            raise ProtocolError(f"the log is full: {self.length} entries")
        link = next_link(self.link, self.length + 1, digest_of(entry))
        return Tip(self.length + 1, link, size)

    def marked(self, before: "Tip") -> bool:
        """Return whether this is a mark; ``before`` is the tip one entry earlier."""
        passed = self.size_bytes // MARK_BYTES > before.size_bytes // MARK_BYTES
        return passed or self.length % MARK_ENTRIES == 0


def check_form(entry: Entry, position: int) -> None:
    """Raise ProtocolError unless ``entry`` may stand at ``position``, from 1."""
    if len(entry.body) > BODY_BYTES:
        raise ProtocolError(f"an entry of {len(entry.body)} bytes, above {BODY_BYTES}")
    if (entry.kind == Kind.OPENING) != (position == 1):
        raise ProtocolError(f"entry {position} is of kind {entry.kind.name}")


def digest_of(entry: Entry) -> bytes:
    """Return what of ``entry`` goes into the chain: its kind and digest, 33 bytes."""
    return bytes([entry.kind]) + sha256(entry.body).digest()


def next_link(before: bytes, position: int, digest: bytes) -> bytes:
    """Return h_position from h_(position-1) and the digest of the entry there."""
    return sha256(before + position.to_bytes(8, "little") + digest).digest()


def first_link(network: str, writer: PeerId) -> bytes:
    """Return h_0."""
    return sha256(f"fedcore/log/1\0{network}\0{writer}".encode()).digest()


def sign_head(key: Key, network: str, writer: PeerId, tip: Tip) -> bytes:
    """Return the signature, 64 bytes, of ``writer``, by its ``key``, under ``tip``."""
    return key.sign(_HEAD, _head(network, writer, tip.length, tip.link))


def head_signed(
    network: str, writer: PeerId, length: int, link: bytes, signature: bytes
) -> bool:
    """Return whether ``writer`` signed that its log has this link at ``length``."""
    return verify(writer, _HEAD, _head(network, writer, length, link), signature)


def _head(network: str, writer: PeerId, length: int, link: bytes) -> bytes:
    return first_link(network, writer) + length.to_bytes(8, "little") + link


def raw_of(writer: PeerId) -> bytes:
    """Return the public key, 32 bytes, that ``writer`` names."""
    return public_of(writer)


def writer_of(raw: bytes) -> PeerId:
    """Return the name of the writer with this public key, 32 bytes."""
    return peer_of(raw)
