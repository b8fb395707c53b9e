"""Sending members away, so that all replicas decide alike, whatever they hear first.

A removal is an entry in an admin's log. It names an invite (revoked) or a peer
(evicted) and lists whom it spares, and how much of what the others wrote still counts;
it cannot know the future, so whoever comes with that invite later, or is invited later
by that peer, is not spared.

Admins could remove each other at the same time, and then the order would decide. So an
admin removes admins only of lower rank: rank 0 is the founder, 1 whom the founder
invited, and so on. What the founder says is judged first, then what rank 1 says, and
nobody's word counts for less because of somebody of the same rank or a lower one.
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.identity.chain import MAX_DEPTH, Admission
from p2p.identity.keys import peer_of, public_of
from p2p.identity.network import check_network
from p2p.identity.openings import Opening
from p2p.identity.rights import Act, may

Removed = Literal["invite", "peer"]
MAX_NAMED = 4096  # peers spared, and writers kept, by one removal
MAX_KEPT = 1000  # writers kept, of those we make: an entry has 64 KiB
_KINDS: dict[Removed, int] = {"invite": 1, "peer": 2}
_RIGHTS: dict[Removed, Act] = {"invite": "revoke", "peer": "evict"}
_HEAD = struct.Struct(">B32sHH")
_KEPT = struct.Struct(">32sQ")


@dataclass(frozen=True)
class Removal:
    """Nobody comes with this invite, or this peer, any more.

    Attributes:
        what: which of the two.
        name: the invite's id or the peer's.
        spared: who came with this invite, or was invited by this peer, and stays.
        kept: by writer, how many entries of a removed member's log still count.
    """

    what: Removed
    name: str
    spared: frozenset[PeerId] = frozenset()
    kept: Mapping[PeerId, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the body of the entry; equal removals have equal bytes.

        Raises:
            ProtocolError: a name is not fit, or there are too many.
        """
        if max(len(self.spared), len(self.kept)) > MAX_NAMED:
            raise ProtocolError(f"a removal names more than {MAX_NAMED} peers")
        named = public_of(self.name) if self.what == "peer" else _invite(self.name)
        head = (_KINDS[self.what], named, len(self.spared), len(self.kept))
        spared = sorted(map(public_of, self.spared))
        kept = sorted((public_of(writer), n) for writer, n in self.kept.items())
        rows = b"".join(_KEPT.pack(*row) for row in kept)
        return _HEAD.pack(*head) + b"".join(spared) + rows


def read_removal(data: bytes) -> Removal:
    """Return the removal that ``data`` is.

    Raises:
        ProtocolError: ``Removal.encode`` did not write it.
    """
    reader = Reader(data)
    kind, named, spared_count, kept_count = _HEAD.unpack(reader.take(_HEAD.size))
    whats = [what for what, code in _KINDS.items() if code == kind]
    if not whats or max(spared_count, kept_count) > MAX_NAMED:
        raise ProtocolError(f"a removal of kind {kind} of {spared_count}+{kept_count}")
    spared = [peer_of(bytes(reader.take(32))) for _ in range(spared_count)]
    rows = [_KEPT.unpack(reader.take(_KEPT.size)) for _ in range(kept_count)]
    kept = {peer_of(public): count for public, count in rows}
    name = peer_of(named) if whats[0] == "peer" else named.hex()
    removal = Removal(whats[0], name, frozenset(spared), kept)
    if reader.left() or removal.encode() != data:
        raise ProtocolError("a removal in a form that nobody writes")
    return removal


def removal_of(
    what: Removed,
    name: str,
    members: Iterable[Opening],
    lengths: Mapping[PeerId, int],
    *,
    spare: bool | Collection[PeerId] = True,
) -> Removal:
    """Return the removal of an invite or a peer, as things stand.

    Args:
        what: an invite, or a peer.
        name: its id.
        members: openings of every log there is.
        lengths: by writer, how many entries of its log there are; these stay.
        spare: whether those stay who came with the invite, or by the peer's invites;
            or who of them does, known to us or not.

    Of very many logs only the longest keep what they have: one that begins a thousand
    must not become too long to be sent away.
    """
    known = list(members)
    guests = {p.peer for m in known for p in m.lineage if _came_by(what, name, p)}
    spared = frozenset(guests if spare is True else spare or ())
    gone = guests - spared
    kept = {
        m.writer: lengths.get(m.writer, 0)
        for m in known
        if m.peer == name or any(step.peer in gone for step in m.lineage)
    }
    longest = sorted(kept, key=lambda writer: (-kept[writer], writer))[:MAX_KEPT]
    return Removal(what, name, spared, {writer: kept[writer] for writer in longest})


@dataclass(frozen=True)
class Said:
    """A removal, and where it is written.

    Attributes:
        author: the opening of the log.
        position: of the entry in the log; the opening is 0.
        removal: what it says.
    """

    author: Opening
    position: int
    removal: Removal


@dataclass
class Standing:
    """Who was sent away: a pure function of the set of removals said.

    Attributes:
        counted: the removals that count, by what they name, with their authors' ranks.
    """

    counted: dict[str, list[tuple[int, Removal]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def why(self, opening: Opening) -> str | None:
        """Return why this member was sent away, as a sentence; None if it was not."""
        reasons = sorted(words for words, _ in self._against(opening))
        return reasons[0] if reasons else None

    def kept(self, opening: Opening) -> int | None:
        """Return how many entries of its log still count; None if all do."""
        removals = [removal for _, removal in self._against(opening)]
        return min((r.kept.get(opening.writer, 0) for r in removals), default=None)

    def _against(self, opening: Opening) -> list[tuple[str, Removal]]:
        return [
            (words, removal)
            for rank, step in enumerate(opening.lineage, 1)
            for name in (step.peer, step.grant.invite, step.grant.issuer)
            for author_rank, removal in self.counted.get(name, ())
            for words in [_hit(removal, author_rank, rank, step)]
            if words and (removal.name != step.peer or rank == opening.depth)
        ]


def standing(said: Iterable[Said]) -> Standing:
    """Return who was sent away, after all of ``said``, in any order."""
    result = Standing()
    by_rank: dict[int, list[Said]] = defaultdict(list)
    for one in said:
        by_rank[one.author.depth].append(one)
    for rank in range(MAX_DEPTH + 1):
        for one in [one for one in by_rank[rank] if _counts(result, one)]:
            if not _is_known(result, rank, one.removal):
                result.counted[one.removal.name].append((rank, one.removal))
    return result


def _is_known(result: Standing, rank: int, removal: Removal) -> bool:
    return (rank, removal) in result.counted.get(removal.name, ())


def _counts(result: Standing, one: Said) -> bool:
    """Return whether the author had the right, and had it still."""
    kept = result.kept(one.author)
    in_time = kept is None or one.position < kept
    return in_time and may(one.author.role, _RIGHTS[one.removal.what])


def _hit(removal: Removal, author_rank: int, rank: int, step: Admission) -> str | None:
    """Return how ``removal`` concerns a member or one of those who brought it in."""
    if step.grant.role == "admin" and rank <= author_rank:
        return None
    if removal.what == "peer" and removal.name == step.peer:
        return f"{step.peer} was evicted"
    if step.peer in removal.spared or not _came_by(removal.what, removal.name, step):
        return None
    if removal.what == "invite":
        return f"the invite of {step.peer}, {removal.name[:8]}, was revoked"
    if rank - 1 <= author_rank:  # an admin of higher rank cannot be evicted
        return None
    return f"{step.peer} was invited by {removal.name}, which was evicted"


def _came_by(what: Removed, name: str, step: Admission) -> bool:
    return name == (step.grant.invite if what == "invite" else step.grant.issuer)


def _invite(name: str) -> bytes:
    return bytes.fromhex(check_network(name))  # also 64 hexadecimal digits
