"""Bytes, columns and how to read them back without trusting them.

The pieces of ``fedcore.codec``: integers of 7 bits a byte, columns of integers and
of names that cost little when neighbours are alike, and a ``Reader`` that refuses
what is cut short or too large before it allocates anything for it.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from fedcore.errors import ProtocolError
from fedcore.names import MAX_CHARS, fault_of, shown

MAX_INT = (1 << 63) - 1
MAX_NAMES_BYTES = 1 << 22  # in one message; a few bytes can repeat a long name
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)
_PACKED, _STEPS = range(2)  # forms of a column of integers
_FRONT_CODED, _NUMBERS = range(2)  # forms of a column of names


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts, so that its memory is bounded.

    Attributes:
        message_bytes: longest message.
        updates: most updates in a message.
        items: most tensors in a message, of all its updates together; and most
            names of metrics, or hints.
        dims: most dimensions of a tensor.
        text_bytes: longest text of a hint, in UTF-8.
    """

    message_bytes: int = 1 << 30
    updates: int = 1 << 12
    items: int = 1 << 14
    dims: int = 8
    text_bytes: int = 1 << 12


def varint(value: int) -> bytes:
    """Return ``value``, in [0, 2^64), with 7 bits a byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """Return ``value`` as a varint in which small sizes of either sign are short.

    Raises:
        ProtocolError: it does not fit in 64 bits.
    """
    check_integer(value)
    return _folded(value)


def text(value: str) -> bytes:
    """Return ``value`` in UTF-8, after its length in bytes."""
    raw = _utf8(value)
    return varint(len(raw)) + raw


def integers(values: Sequence[int]) -> bytes:
    """Return a column of ``values``, in the shorter of two forms.

    Packed: the lowest, a width, and then each one's excess in so many bits; equal
    values cost nothing. Steps: each less the one before, for what grows slowly.

    Raises:
        ProtocolError: one does not fit in 64 bits.
    """
    for value in values:
        check_integer(value)
    steps = b"".join(_folded(b - a) for a, b in pairwise([0, *values]))
    return min(bytes([_PACKED]) + _packed(values), bytes([_STEPS]) + steps, key=len)


def _packed(values: Sequence[int]) -> bytes:
    low = min(values, default=0)
    width = (max(values, default=0) - low).bit_length()
    bits = "".join(f"{value - low:0{width}b}" for value in values) if width else ""
    whole = int(bits or "0", 2).to_bytes(-(-len(bits) // 8), "big")
    return _folded(low) + varint(width) + whole


def names(values: Sequence[str]) -> bytes:
    """Return a column of ``values``, each as it differs from the one before.

    Names that are one prefix and a number of one width, such as ``peer-000123``,
    become a column of integers.

    Raises:
        ProtocolError: a name is not fit for a key (see ``fedcore.names``).
    """
    for value in values:
        check_name(value)
    parts = [_NUMBERED.fullmatch(value) for value in values]
    kinds = {(part[1], len(part[2])) if part else None for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is not None:
        prefix, width = kind
        numbers = integers([int(part[2]) for part in parts if part])
        return bytes([_NUMBERS]) + text(prefix) + varint(width) + numbers
    out = [bytes([_FRONT_CODED])]
    for before, raw in pairwise([b"", *map(_utf8, values)]):
        kept = _shared(before, raw)
        out += [varint(kept), varint(len(raw) - kept), raw[kept:]]
    return b"".join(out)


def _shared(a: bytes, b: bytes) -> int:
    """Return how many first bytes ``a`` and ``b`` have in common."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def check_integer(value: object) -> None:
    """Raise ProtocolError unless ``value`` is an integer of 64 bits."""
    if type(value) is not int or not -MAX_INT <= value <= MAX_INT:
        raise ProtocolError(f"{shown(value)} is not an integer of 64 bits")


def check_name(name: object) -> None:
    """Raise ProtocolError if ``name`` is not fit for a key."""
    wrong = fault_of(name)
    if wrong is not None:
        raise ProtocolError(f"a name {wrong}")


class Reader:
    """Reads a message from its start; every mistake in it is a ProtocolError."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.at = 0
        self.names_bytes = 0

    def left(self) -> int:
        """Return how many bytes have not been read."""
        return len(self.data) - self.at

    def take(self, count: int) -> memoryview:
        """Return the next ``count`` bytes, not copied."""
        if count > self.left():
            raise ProtocolError(f"cut short: {count} bytes more at byte {self.at}")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def varint(self, limit: int = MAX_INT) -> int:
        """Return the next varint, which must not exceed ``limit``."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if value > limit:
                raise ProtocolError(f"an integer above {limit} before byte {self.at}")
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ProtocolError(f"an endless integer before byte {self.at}")

    def signed(self) -> int:
        """Return the next signed integer; see ``signed``."""
        return _unfolded(self.varint(2 * MAX_INT + 1))

    def float(self) -> float:
        """Return the next 8 bytes as a float64."""
        value: float = struct.unpack("<d", self.take(8))[0]
        return value

    def text(self, limit: int) -> str:
        """Return the next text, of at most ``limit`` bytes in UTF-8."""
        return _decoded(bytes(self.take(self.varint(limit))))

    def integers(self, count: int) -> list[int]:
        """Return the next column of ``count`` integers."""
        form = self.take(1)[0]
        if form == _PACKED:
            values = self._packed(count)
        elif form == _STEPS:
            steps = (_unfolded(self.varint(4 * MAX_INT + 1)) for _ in range(count))
            values = list(accumulate(steps))
        else:
            raise ProtocolError(f"unknown form {form} of integers")
        for value in values:
            check_integer(value)
        return values

    def _packed(self, count: int) -> list[int]:
        low, width = self.signed(), self.varint(64)
        if not width:
            return [low] * count
        size = count * width
        whole = int.from_bytes(self.take(-(-size // 8)), "big")
        if whole.bit_length() > size:
            raise ProtocolError("packed integers with bits to spare")
        bits = f"{whole:0{size}b}"
        return [low + int(bits[at : at + width], 2) for at in range(0, size, width)]

    def names(self, count: int) -> list[str]:
        """Return the next column of ``count`` names, all fit for keys."""
        form = self.take(1)[0]
        if form not in (_FRONT_CODED, _NUMBERS):
            raise ProtocolError(f"unknown form {form} of names")
        numbered = form == _NUMBERS
        values = self._numbered(count) if numbered else self._front_coded(count)
        for value in values:
            check_name(value)
        return values

    def _count_names(self, size_bytes: int) -> None:
        self.names_bytes += size_bytes
        if self.names_bytes > MAX_NAMES_BYTES:
            raise ProtocolError(f"names of more than {MAX_NAMES_BYTES} bytes")

    def _numbered(self, count: int) -> list[str]:
        prefix, width = self.text(4 * MAX_CHARS), self.varint(18)
        self._count_names(count * (len(prefix) + width))
        return [f"{prefix}{number:0{width}d}" for number in self.integers(count)]

    def _front_coded(self, count: int) -> list[str]:
        values: list[str] = []
        before = b""
        for _ in range(count):
            kept = self.varint(len(before))
            before = before[:kept] + bytes(self.take(self.varint(4 * MAX_CHARS)))
            self._count_names(len(before))
            values.append(_decoded(before))
        return values


def _folded(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else -value << 1 | 1)


def _unfolded(value: int) -> int:
    return -(value >> 1) if value & 1 else value >> 1


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(f"text that UTF-8 cannot hold: {error.reason}") from error


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"text that is not UTF-8: {error.reason}") from error
