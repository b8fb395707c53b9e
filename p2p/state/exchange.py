"""What one replica has that another lacks, and how to tell it.

Nobody sends a list of all entries: how far each writer is known says everything, as
logs have no holes. And if two replicas were level before, they name the root that they
shared then, and list only writers that have changed since.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import SIGNATURE_BYTES
from p2p.state.chain import HASH_BYTES, TAG_BYTES, WRITERS, first_link
from p2p.state.checking import Doubt
from p2p.state.encoding import Item, put_fork
from p2p.state.held import News as Added
from p2p.state.logs import Logs
from p2p.state.messages import (
    MESSAGE_BYTES,
    Links,
    Message,
    News,
    Prove,
    Pull,
    Sync,
    Trace,
)
from p2p.state.segments import Branch, Fork, Segment

LEFT_ITEMS = 128
NEWS_BYTES = MESSAGE_BYTES - LEFT_ITEMS * 64 - 64  # of forks and segments


@dataclass
class Difference:
    """How another replica differs from ours.

    Attributes:
        give: what it knows of writers of whom we know more.
        want: what it knows of writers of whom it knows more.
        doubts: of whom it has another log.
    """

    give: list[Item] = field(default_factory=list)
    want: list[Item] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)


def sync_of(logs: Logs, shared: bytes | None) -> Sync:
    """Return what to tell a peer with whom we were level at the root ``shared``."""
    root = logs.root()
    logs.changes.pin(root)
    changed = logs.changes.since(shared) if shared else None
    enough = logs.held_up()
    about = None if changed is None else changed.keys() | enough
    since = shared if about is not None and len(about) <= WRITERS else None
    names = sorted(about) if about is not None and since else logs.writers()[:WRITERS]
    told = [replace(logs.item(writer), enough=writer in enough) for writer in names]
    return Sync(root, since, told)


def difference(logs: Logs, sync: Sync) -> Difference | None:
    """Return how the sender of ``sync`` differs; None if it must tell all."""
    told = {item.writer: item for item in sync.items}
    if sync.since is None:
        return compared(logs, told.keys() | logs.by_writer.keys(), told)
    before = logs.changes.since(sync.since)
    if before is None:
        return None
    then = {writer: item for writer, item in before.items() if item}
    return compared(logs, told.keys() | before.keys(), then | told)


def compared(
    logs: Logs, writers: Iterable[PeerId], theirs: dict[PeerId, Item]
) -> Difference:
    """Return how one that knows ``theirs`` differs from us as to ``writers``."""
    found = Difference()
    for writer in sorted(writers):
        their = theirs.get(writer) or nothing(logs, writer)
        our = logs.item(writer)
        if logs.differs(their):
            found.doubts.append(Doubt(writer, their.length))
        if _is_ahead(our, their):
            found.give.append(their)
        if _is_ahead(their, our) and logs.takes(writer):
            found.want.append(their)
    return found


def nothing(logs: Logs, writer: PeerId) -> Item:
    """Return how far one knows ``writer`` who has never heard of it."""
    return Item(writer, 0, first_link(logs.network, writer)[:TAG_BYTES])


def wanted(logs: Logs, items: Iterable[Item]) -> list[Item]:
    """Return how far we know those of whom others, at ``items``, still know more."""
    ours = [(logs.item(i.writer), i) for i in items if logs.takes(i.writer)]
    return [our for our, their in ours if _is_ahead(their, our)]


def news_for(logs: Logs, give: Sequence[Item]) -> News:
    """Return what one lacks who knows ``give``; at most one message of it."""
    forks: list[Fork] = []
    segments: list[Segment] = []
    left: list[Item] = []
    room = NEWS_BYTES
    for item in give:
        fork = _fork_for(logs, item)
        room -= len(put_fork(fork)) if fork else 0
        if room < 0:
            left.append(logs.item(item.writer))
            continue
        forks += [fork] if fork else []
        if logs.differs(item) or item.enough:
            continue  # it must find the earlier fork first, or has no room
        for segment in logs.segments(item.writer, item.length):
            room -= size_of(segment)
            if room < 0:
                left.append(logs.item(item.writer))
                break
            segments.append(segment)
    return News(logs.root(), forks, segments, left[:LEFT_ITEMS])


def segment_of(added: Added) -> Segment:
    """Return what was added as it is told to others."""
    start, tag = added.before.length, added.before.link[:TAG_BYTES]
    entries = [entry for entry, _ in added.rows]
    return Segment(added.writer, start, tag, entries, added.rest)


def size_of(segment: Segment) -> int:
    """Return at most how many bytes ``segment`` takes in a message."""
    head = 2 * HASH_BYTES + TAG_BYTES + SIGNATURE_BYTES
    digests = len(segment.rest.digests) * (HASH_BYTES + 1)
    return head + digests + sum(len(entry.body) + 4 for entry in segment.entries)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer, and what the question has told us.

    Attributes:
        said: the answer; text is a refusal.
        want: how far the asker knows writers of whom it knows more.
        doubts: of whom it has another log.
    """

    said: News | Links | Branch | str
    want: Sequence[Item] = ()
    doubts: Sequence[Doubt] = ()


def reply_to(logs: Logs, message: Message) -> Reply:
    """Return the answer to ``message``.

    Raises:
        ProtocolError: it is no question.
    """
    match message:
        case Sync():
            return _reply_to_sync(logs, message)
        case Pull(items):
            their = {item.writer: item for item in items}
            found = compared(logs, their, their)
            return Reply(news_for(logs, found.give), (), found.doubts)
        case Trace(writer, positions):
            length = logs.tip(writer).length
            return Reply(
                Links([logs.link(writer, n) for n in positions if n <= length])
            )
        case Prove(writer, position) if position <= logs.tip(writer).length:
            return Reply(logs.branch(writer, position))
        case Prove():
            return Reply("this log does not reach so far")
    raise ProtocolError("what was asked is no question")


def _reply_to_sync(logs: Logs, sync: Sync) -> Reply:
    if sync.root == logs.root():
        return Reply(News(sync.root))
    found = difference(logs, sync)
    if found is None:
        return Reply(News(logs.root(), whole=True))
    return Reply(news_for(logs, found.give), found.want, found.doubts)


def _is_ahead(a: Item, b: Item) -> bool:
    """Return whether one at ``a`` can tell something to one at ``b``."""
    if a.fork and (not b.fork or a.fork < b.fork):
        return True
    return a.length > b.length and (not b.fork or b.length < b.fork - 1)


def _fork_for(logs: Logs, item: Item) -> Fork | None:
    log = logs.by_writer.get(item.writer)
    fork = log.fork if log else None
    return fork if fork and not 0 < item.fork <= fork.position else None
