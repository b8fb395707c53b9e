"""Messages on a stream: a kind, a length, a body. Nothing here reads or writes.

A frame is five bytes of head, the kind and the length in big-endian order, and then
the body. A length above the limit is refused before anything is kept for it.
"""

import struct
from enum import IntEnum

from fedcore.errors import ProtocolError
from p2p.transport import MAX_BODY_BYTES, check_size

HEAD_BYTES = 5
MAX_REASON_BYTES = 512
_HEAD = struct.Struct(">BI")


class Kind(IntEnum):
    """What a frame is."""

    ASK = 1
    TELL = 2
    ANSWER = 3
    REFUSED = 4  # the body is the reason: asking again will not help
    BUSY = 5  # the body is the reason: asking again later may help


def frame(kind: Kind, body: bytes) -> bytes:
    """Return ``body`` as a frame.

    Raises:
        ProtocolError: ``body`` is longer than ``MAX_BODY_BYTES``.
    """
    check_size(len(body))
    return _HEAD.pack(kind, len(body)) + body


def refusal(kind: Kind, why: str) -> bytes:
    """Return a frame of ``kind`` that gives the reason ``why``, cut if too long."""
    return frame(kind, why.encode("utf-8", "replace")[:MAX_REASON_BYTES])


def reason_of(body: bytes) -> str:
    """Return the reason that another peer gave, fit to be shown on one line."""
    text = body[:MAX_REASON_BYTES].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def head_of(raw: bytes) -> tuple[Kind, int]:
    """Return the kind and the length of the frame that begins with ``raw``.

    Raises:
        ProtocolError: there is no such kind, or the length is above its limit.
    """
    number, size = _HEAD.unpack(raw)
    try:
        kind = Kind(number)
    except ValueError:
        raise ProtocolError(f"a frame of the unknown kind {number}") from None
    check_size(size, MAX_REASON_BYTES if kind >= Kind.REFUSED else MAX_BODY_BYTES)
    return kind, size
