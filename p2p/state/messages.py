"""What replicas say to each other on ``/state/1``.

    sync    asked     root; a root we shared, or none; items: what changed since, or all
    pull    asked     items: send what I lack of these writers
    news    answered  root; whether to tell all; forks, segments; items: I have more
            told      the same, pushed: news of one's own
    trace   asked     writer, positions: which links do you have there?
    links   answered  one link for each position
    prove   asked     writer, position: show the way to a signed head
    branch  answered

Whoever is asked for news answers with at most ``NEWS_BYTES`` and says what is left. An
answer is longer than that only if one piece alone is; never above ``MESSAGE_BYTES``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader, varint
from p2p.state.chain import HASH_BYTES, LOG_ENTRIES, WRITERS, raw_of
from p2p.state.encoding import (
    Item,
    finish,
    get_branch,
    get_fork,
    get_item,
    get_segment,
    get_writer,
    number,
    put_branch,
    put_fork,
    put_item,
    put_segment,
)
from p2p.state.segments import Branch, Fork, Segment

MESSAGE_BYTES = 1 << 18
POSITIONS = 32  # in one trace


@dataclass(frozen=True, slots=True)
class Sync:
    """My root, and how far I know every writer.

    Attributes:
        since: a root that both of us had: ``items`` are what changed since. None:
            they are all there are.
    """

    root: bytes
    since: bytes | None
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Pull:
    """How far I know these writers: send what I lack of them, at least one."""

    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class News:
    """What you lack.

    Attributes:
        root: of the sender, before it learns anything from you.
        whole: I do not remember the root that you name: tell all.
        left: where I still have more than this, and how much.
    """

    root: bytes
    forks: Sequence[Fork] = ()
    segments: Sequence[Segment] = ()
    left: Sequence[Item] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """Which links do you have at these positions? Ascending, 1 to 32 of them."""

    writer: PeerId
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Links:
    """The links at the positions asked for, as far as the log goes."""

    links: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Prove:
    """Show what leads from before this position to a signed head."""

    writer: PeerId
    position: int


Message = Sync | Pull | News | Trace | Links | Prove | Branch


def encode(message: Message) -> bytes:
    """Return ``message`` as bytes."""
    code, _ = _FORMS[type(message)]
    match message:
        case Sync(root, since, items):
            base = b"\1" + since if since else b"\0"
            body = root + base + _column(list(map(put_item, items)))
        case Pull(items):
            body = _column(list(map(put_item, items)))
        case News():
            body = _news(message)
        case Trace(writer, positions):
            body = raw_of(writer) + _column(list(map(varint, positions)))
        case Links(links):
            body = _column(links)
        case Prove(writer, position):
            body = raw_of(writer) + varint(position)
        case Branch():
            body = put_branch(message)
    return bytes([code]) + body


def decode(data: bytes) -> Message:
    """Return the message that ``data`` is.

    Raises:
        ProtocolError: ``encode`` did not write it, or it is too long.
    """
    if len(data) > MESSAGE_BYTES:
        raise ProtocolError(f"{len(data)} bytes, above {MESSAGE_BYTES}")
    reader = Reader(data)
    code = reader.take(1)[0]
    if code not in _READERS:
        raise ProtocolError(f"a message of unknown kind {code}")
    message = _READERS[code](reader)
    finish(reader)
    return message


def _news(news: News) -> bytes:
    columns = [
        _column(list(map(put_fork, news.forks))),
        _column(list(map(put_segment, news.segments))),
        _column(list(map(put_item, news.left))),
    ]
    return news.root + bytes([news.whole]) + b"".join(columns)


def _column(parts: Sequence[bytes]) -> bytes:
    return varint(len(parts)) + b"".join(parts)


def _flag(reader: Reader) -> bool:
    value = reader.take(1)[0]
    if value > 1:
        raise ProtocolError(f"{value} is neither yes nor no")
    return bool(value)


def _root(reader: Reader) -> bytes:
    return bytes(reader.take(HASH_BYTES))


def _items(reader: Reader) -> tuple[Item, ...]:
    items = tuple(get_item(reader) for _ in range(number(reader, WRITERS)))
    if len({item.writer for item in items}) < len(items):
        raise ProtocolError("a writer comes twice")
    return items


def _read_sync(reader: Reader) -> Sync:
    root = _root(reader)
    since = _root(reader) if _flag(reader) else None
    return Sync(root, since, _items(reader))


def _read_pull(reader: Reader) -> Pull:
    items = _items(reader)
    if not items:
        raise ProtocolError("a pull of nothing")
    return Pull(items)


def _read_news(reader: Reader) -> News:
    root, whole = _root(reader), _flag(reader)
    forks = tuple(get_fork(reader) for _ in range(number(reader, WRITERS)))
    many = number(reader, MESSAGE_BYTES)
    segments = tuple(get_segment(reader) for _ in range(many))
    return News(root, forks, segments, _items(reader), whole)


def _read_trace(reader: Reader) -> Trace:
    writer, count = get_writer(reader), number(reader, POSITIONS)
    positions = tuple(number(reader, LOG_ENTRIES) for _ in range(count))
    if not positions or not positions[0]:
        raise ProtocolError("a trace of no positions")
    if any(a >= b for a, b in pairwise(positions)):
        raise ProtocolError("positions of a trace that do not ascend")
    return Trace(writer, positions)


def _read_links(reader: Reader) -> Links:
    return Links(tuple(_root(reader) for _ in range(number(reader, POSITIONS))))


def _read_prove(reader: Reader) -> Prove:
    writer, position = get_writer(reader), number(reader, LOG_ENTRIES)
    if not position:
        raise ProtocolError("entries are numbered from 1")
    return Prove(writer, position)


_FORMS: dict[type[Message], tuple[int, Callable[[Reader], Message]]] = {
    Sync: (1, _read_sync),
    Pull: (2, _read_pull),
    News: (3, _read_news),
    Trace: (4, _read_trace),
    Links: (5, _read_links),
    Prove: (6, _read_prove),
    Branch: (7, get_branch),
}
_READERS = dict(_FORMS.values())
