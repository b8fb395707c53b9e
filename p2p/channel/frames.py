"""The frames of a channel: a head of 24 bytes, a topic or words, a part of a body.

    kind 1 | topic bytes 1 | of 2 | part bytes 4 | ticket 8 | number 8   (little endian)

A body begins with ASK, TELL or ANSWER (``number``: its whole size) and goes on with
PART frames (``of``: the kind it began with, ``number``: the offset). An ASK says if its
answer may be large (``of``: 1), so that others need not wait for that. Parts of several
bodies alternate, and a ticket tells them apart. Fields that a kind does not use are
zero, so that every frame has one encoding.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from fedcore.errors import ProtocolError
from p2p.channel.limits import GREETING_BYTES, MOST, PART_BYTES

HEAD = struct.Struct("<BBHIQQ")
HEAD_BYTES = HEAD.size
TOPIC_BYTES = 64
WORDS_BYTES = 512
_RECORD_BYTES = 1 << 14
_SEAL_BYTES = 22  # what TLS adds to a record


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    ASK = 2
    TELL = 3
    ANSWER = 4
    PART = 5
    REFUSE = 6  # the ask with this ticket is refused, in words
    FAIL = 7  # it has no answer, in words; asking again may help
    CANCEL = 8  # nobody waits for the answer to this ticket any more
    CREDIT = 9  # so many bytes more may be sent
    TOLD = 10  # tells of so many bytes have been dealt with
    PING = 11
    PONG = 12
    BYE = 13  # the channel ends, in words


LARGE = 1  # in ``of`` of an ASK: its answer may be large
BODIES = frozenset({Kind.ASK, Kind.TELL, Kind.ANSWER})
_NAMED = frozenset({Kind.ASK, Kind.TELL})
_TICKETED = frozenset({*BODIES, Kind.PART, Kind.REFUSE, Kind.FAIL, Kind.CANCEL})
_NUMBERED = frozenset(
    {*BODIES, Kind.PART, Kind.CREDIT, Kind.TOLD, Kind.PING, Kind.PONG}
)
_OF = {Kind.PART: BODIES, Kind.ASK: (0, LARGE)}
_KINDS = {int(kind): kind for kind in Kind}
_PART_MOST = {
    **dict.fromkeys((*BODIES, Kind.PART), PART_BYTES),
    **dict.fromkeys((Kind.REFUSE, Kind.FAIL, Kind.BYE), WORDS_BYTES),
    Kind.HELLO: GREETING_BYTES,
}


class Head(NamedTuple):
    """The head of a frame."""

    kind: Kind
    topic_bytes: int
    of: int
    part_bytes: int
    ticket: int
    number: int

    @property
    def tail_bytes(self) -> int:
        """How many bytes follow that are no part of a body."""
        if self.kind in BODIES or self.kind is Kind.PART:
            return self.topic_bytes
        return self.part_bytes


def read_head(raw: bytes | bytearray | memoryview) -> Head:
    """Return the head in the first 24 bytes of ``raw``.

    Raises:
        ProtocolError: no kind has such a head.
    """
    number_of_kind, *fields = HEAD.unpack_from(raw)
    kind = _KINDS.get(number_of_kind)
    if kind is None:
        raise ProtocolError(f"a frame of unknown kind {number_of_kind}")
    head = Head(kind, *fields)
    wrong = _fault_of(head)
    if wrong is not None:
        raise ProtocolError(f"{kind.name} {wrong}")
    return head


def _fault_of(head: Head) -> str | None:
    """Return what is wrong with ``head``, whatever the state of the channel."""
    kind, part, number = head.kind, head.part_bytes, head.number
    low, high = (1, TOPIC_BYTES) if kind in _NAMED else (0, 0)
    if not low <= head.topic_bytes <= high:
        return f"with a topic of {head.topic_bytes} bytes"
    if part > _PART_MOST.get(kind, 0):
        return f"with a part of {part} bytes"
    if head.ticket and kind not in _TICKETED:
        return "with a ticket"
    if number and kind not in _NUMBERED:
        return "with a number"
    return _fault_of_body(head)


def _fault_of_body(head: Head) -> str | None:
    kind, part, number = head.kind, head.part_bytes, head.number
    if number > MOST and kind not in (Kind.PING, Kind.PONG):
        return f"with the number {number}"
    if head.of not in _OF.get(kind, (0,)):
        return f"of a body of kind {head.of}"
    if kind in BODIES and (part > number or (number and not part)):
        return f"with {part} of {number} bytes"
    if kind is Kind.PART and not part:
        return "with nothing in it"
    return None


def frame(kind: Kind, ticket: int = 0, number: int = 0, tail: bytes = b"") -> bytes:
    """Return a whole frame that carries no part of a body."""
    return HEAD.pack(kind, 0, 0, len(tail), ticket, number) + tail


def topic_bytes(topic: str) -> bytes:
    """Return ``topic`` as it is sent.

    Raises:
        ProtocolError: it is not 1 to 64 printable characters of ASCII, no spaces.
    """
    fit = type(topic) is str and topic.isascii() and topic.isprintable()
    if not (fit and 0 < len(topic) <= TOPIC_BYTES and " " not in topic):
        raise ProtocolError(f"{topic!r:.80} is no topic")
    return topic.encode()


def topic_of(raw: bytes) -> str:
    """Return the topic that was sent as ``raw``.

    Raises:
        ProtocolError: it is none.
    """
    topic = raw.decode("latin-1")
    topic_bytes(topic)
    return topic


def words_bytes(words: str) -> bytes:
    """Return ``words`` as they are sent: printable, and at most 512 bytes."""
    plain = "".join(c if c.isprintable() else "?" for c in words[:WORDS_BYTES])
    raw = plain.encode("utf-8", "replace")[:WORDS_BYTES]
    return raw.decode("utf-8", "ignore").encode()


def words_of(raw: bytes) -> str:
    """Return the words that were sent as ``raw``.

    Raises:
        ProtocolError: they are not text, or would break a log line.
    """
    try:
        words = raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("words that are not UTF-8") from error
    if not words.isprintable():
        raise ProtocolError("words that cannot be printed")
    return words


def cost_of(topic: int, part: int) -> int:
    """Return what a frame costs on the wire, in bytes: what credits and caps count.

    Args:
        topic: bytes of its topic.
        part: bytes of its part of a body.
    """
    seals = 1 + part // _RECORD_BYTES
    return HEAD_BYTES + topic + part + seals * _SEAL_BYTES
