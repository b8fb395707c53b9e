"""Whether segments are what their writers signed, before anything changes.

A segment may repeat what we have; only what is new counts. If what it repeats is not
what we have, then one writer has two logs, and it is worth looking for where they part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.state.chain import (
    TAG_BYTES,
    Entry,
    Tip,
    check_form,
    digest_of,
    next_link,
)
from p2p.state.encoding import Item
from p2p.state.held import News
from p2p.state.logs import Logs
from p2p.state.segments import BRANCH_DIGESTS, Branch, Segment
from p2p.state.store import Row


@dataclass(frozen=True, slots=True)
class Doubt:
    """Our log of ``writer`` and another's differ at ``position``."""

    writer: PeerId
    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries before those of a segment are missing: ``wanted`` is where it ends."""

    wanted: Item


Judged = News | Doubt | Gap


def check(logs: Logs, segments: Sequence[Segment]) -> list[Judged]:
    """Return what ``segments``, in this order, would add to ``logs``.

    Writers of whom we take no more are passed over, and the others go on: a crowd
    must not keep members apart.

    Raises:
        ProtocolError: one of them is not what its writer signed; nothing is to be
            added.
    """
    found: list[Judged] = []
    last: dict[PeerId, News] = {}
    for segment in segments:
        writer = segment.writer
        if writer not in last and not logs.takes(writer, _first(logs, segment)):
            continue
        new = _judged(logs, segment, last.get(writer))
        if isinstance(new, News):
            last[writer] = new
        if new is not None:
            found.append(new)
    return found


def _first(logs: Logs, segment: Segment) -> bytes:
    """Return the link of the opening that a segment begins with; b"" if it does not."""
    link = logs.link(segment.writer, 0)
    return b"" if segment.start else _linked(link, 0, segment.entries[:1])


def _judged(
    logs: Logs, segment: Segment, last: News | None
) -> News | Doubt | Gap | None:
    """Judge one segment; ``last`` is what a segment before it would add."""
    writer, start = segment.writer, segment.start
    tip = last.tip if last else logs.tip(writer)
    if start > tip.length:
        return Gap(Item(writer, segment.end, b""))
    if last and start < tip.length:
        raise ProtocolError(f"segments of {writer} that overlap")
    link = tip.link if start == tip.length else logs.link(writer, start)
    if segment.tag != link[:TAG_BYTES]:
        if not start:
            raise ProtocolError(f"a log of {writer} in another network")
        return Doubt(writer, start)
    known = min(segment.end, tip.length)
    if known > start:
        repeated = segment.entries[: known - start]
        if _linked(link, start, repeated) != logs.link(writer, known):
            return Doubt(writer, known)
    if segment.end <= tip.length:
        return None
    entries = segment.entries[tip.length - start :]
    entries, rest = _within(logs, writer, tip, entries, segment.rest)
    if not entries:
        return None
    opening = last.opening if last else opening_of(logs, writer, entries)
    return _news(logs, opening, tip, entries, rest)


def _linked(link: bytes, position: int, entries: Sequence[Entry]) -> bytes:
    for entry in entries:
        position += 1
        link = next_link(link, position, digest_of(entry))
    return link


def _within(
    logs: Logs, writer: PeerId, tip: Tip, entries: Sequence[Entry], rest: Branch
) -> tuple[Sequence[Entry], Branch]:
    """Return the part of ``entries`` before a fork, and what vouches for it."""
    log = logs.by_writer.get(writer)
    limit = log.limit if log else None
    end = tip.length + len(entries)
    if limit is not None and end > limit:
        gone = entries[limit - tip.length :]
        digests = (*map(digest_of, gone), *rest.digests)
        if len(digests) > BRANCH_DIGESTS:
            raise ProtocolError(f"a segment of {writer} that is signed too far on")
        return entries[: limit - tip.length], Branch(digests, rest.signature)
    if rest.digests and end != limit:
        raise ProtocolError(f"a segment of {writer} that is signed further on")
    return entries, rest


def _news(
    logs: Logs, opening: Opening, before: Tip, entries: Sequence[Entry], rest: Branch
) -> News:
    writer = opening.writer
    rows: list[Row] = []
    tip, marked = before, False
    for entry in entries:
        if marked:
            raise ProtocolError(f"a segment of {writer} passes a mark")
        last, tip = tip, tip.plus(entry)
        marked = tip.marked(last)
        rows.append((entry, tip.link))
    if not rest.holds(logs.network, writer, tip.length, tip.link):
        raise ProtocolError(f"{writer} did not sign this segment")
    return News(writer, opening, rows, before, tip, not marked, rest)


def opening_of(logs: Logs, writer: PeerId, entries: Sequence[Entry]) -> Opening:
    """Return the opening of ``writer``, which ``entries`` begin with if it is new."""
    log = logs.by_writer.get(writer)
    if log and log.opening and log.tip.length:
        return log.opening
    check_form(entries[0], 1)
    opening = logs.openings(entries[0].body)
    if opening.writer != writer:
        raise ProtocolError(f"{writer} begins with the opening of {opening.writer}")
    return opening
