"""Pieces of logs that prove themselves, and proof that a writer told two stories.

A *branch* is what leads from a link to a signed head: the digests of the entries in
between, and the signature. A *segment* is some entries and the branch that vouches for
them; mostly the head is right at their end and the branch holds only its signature.

A *fork* shows two branches of one writer that leave the same link with different
entries: both signed, so only the writer can have made it, and it needs nothing else to
be believed. From the position where they part nothing of that writer counts any more,
anywhere: see ``p2p.state.logs``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.state.chain import MARK_ENTRIES, Entry, head_signed, next_link

BRANCH_DIGESTS = MARK_ENTRIES  # as far as the next mark, which is signed


Openings = Callable[[bytes], Opening]  # raises ProtocolError if it proves nothing


@dataclass(frozen=True, slots=True)
class Branch:
    """The way from a link to a signed head.

    Attributes:
        digests: of the entries after the link, 33 bytes each, at most 256.
        signature: of the head behind the last of them, 64 bytes.
    """

    digests: Sequence[bytes]
    signature: bytes

    def holds(self, network: str, writer: PeerId, length: int, link: bytes) -> bool:
        """Return whether it leads from ``link`` at ``length`` to a signed head."""
        for digest in self.digests:
            length += 1
            link = next_link(link, length, digest)
        return head_signed(network, writer, length, link, self.signature)


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries ``start + 1``, ``start + 2``, ... of a writer.

    Attributes:
        tag: first 16 bytes of h_start, to see whether we mean the same log.
        entries: at least one; only the last of them may stand at a mark.
        rest: what vouches for the last of them.
    """

    writer: PeerId
    start: int
    tag: bytes
    entries: Sequence[Entry]
    rest: Branch

    @property
    def end(self) -> int:
        """Number of the last entry."""
        return self.start + len(self.entries)


@dataclass(frozen=True, slots=True)
class Fork:
    """Proof that ``writer`` signed two entries at ``position``.

    Attributes:
        position: of the first entries that differ, from 1.
        before: the link that both branches leave, h_(position-1).
        one, other: the branches, the lesser first digest first.
        opening: of the writer, valid: only those that were let in can fork.
    """

    writer: PeerId
    position: int
    before: bytes
    one: Branch
    other: Branch
    opening: bytes

    @property
    def words(self) -> str:
        """What follows from it, for people."""
        end = f"only entries before {self.position} count"
        return f"{self.writer} told two stories: {end}"

    def check(self, network: str, openings: Openings) -> None:
        """Raise ProtocolError unless this proves what it says."""
        if openings(self.opening).writer != self.writer:
            raise ProtocolError(f"a fork of {self.writer} with another's opening")
        firsts = [b.digests[0] if b.digests else b"" for b in (self.one, self.other)]
        if not b"" < firsts[0] < firsts[1]:
            raise ProtocolError(f"a fork of {self.writer} whose branches are the same")
        for branch in (self.one, self.other):
            if not branch.holds(network, self.writer, self.position - 1, self.before):
                raise ProtocolError(f"a fork of {self.writer} that it did not sign")


def ordered(a: Branch, b: Branch) -> tuple[Branch, Branch]:
    """Return both branches as a ``Fork`` has them."""
    return (a, b) if a.digests[0] < b.digests[0] else (b, a)
