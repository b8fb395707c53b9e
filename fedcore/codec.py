"""Updates and works as bytes, and back. Bytes from a peer never become code.

Layout of a message (all little-endian, as the machines that write it)::

    2 bytes    "FC"
    1 byte     "U" updates, or "W" a work
    1 byte     1, the version of this layout
    4 bytes    CRC-32 of all other bytes
    head       counts, names, shapes and small numbers, column by column
    body       the tensors' raw bytes, in the order of the head

A column holds one field of every update, so that a batch of one-byte updates costs
a few bytes each. The same value always has the same bytes, and bytes that are not
exactly what the encoder would write are refused: a hash of a message names its value.
The sum against damage is no protection against forgery; only signatures are.

Nothing is allocated for a tensor before its size has been compared with the bytes
that are there.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence

from fedcore.errors import ProtocolError
from fedcore.forms import (
    Form,
    form_head,
    form_of,
    grouped,
    kinds_head,
    read_form,
    read_groups,
    read_trees,
    trees_body,
)
from fedcore.names import shown
from fedcore.strategy import Update, Work
from fedcore.wire import Limits, Reader, integers, names, signed, text, varint

__all__ = [
    "LIMITS",
    "Limits",
    "decode_updates",
    "decode_work",
    "encode_updates",
    "encode_work",
]

LAYOUT = 1
LIMITS = Limits()
_START = struct.Struct("<2s1sBI")
_INT, _FLOAT, _TEXT = range(3)  # types of a hint


def encode_updates(updates: Sequence[Update]) -> bytes:
    """Return ``updates`` as one message.

    Raises:
        ProtocolError: a name is not fit for a key, a dtype cannot be sent, or a
            number does not fit in 64 bits.
    """
    head, groups = _updates_head(updates)
    return _message(b"U", head, trees_body(groups, [u.payload for u in updates]))


def decode_updates(data: bytes, limits: Limits = LIMITS) -> list[Update]:
    """Return the updates in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_updates`` writes, or exceeds
            ``limits``.
    """
    reader = _opened(data, b"U", limits)
    count = reader.varint(limits.updates)
    peers = reader.names(count)
    versions, examples = reader.integers(count), reader.integers(count)
    metrics = _read_metrics(reader, count, limits)
    groups = read_groups(reader, _read_forms(reader, count, limits), count)
    _check_items(sum(len(form) * len(rows) for form, rows in groups), limits)
    end_of_head = reader.at
    payloads = read_trees(reader, groups, count)
    columns = zip(peers, versions, payloads, examples, metrics, strict=True)
    updates = [Update(*row) for row in columns]
    _check_exact(reader, end_of_head, _updates_head(updates)[0])
    return updates


def encode_work(work: Work) -> bytes:
    """Return ``work`` as one message.

    Raises:
        ProtocolError: as ``encode_updates``; or a hint is no number or text.
    """
    head, groups = _work_head(work)
    return _message(b"W", head, trees_body(groups, [work.params, work.aux]))


def decode_work(data: bytes, limits: Limits = LIMITS) -> Work:
    """Return the work in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_work`` writes, or exceeds
            ``limits``.
    """
    reader = _opened(data, b"W", limits)
    version, steps, epochs = reader.signed(), reader.signed(), reader.signed()
    if version < 0 or steps < 0 or epochs < 1:
        asked = f"version {version}, {steps} steps, {epochs} epochs"
        raise ProtocolError(f"{asked}: not work that anybody can do")
    hints = _read_hints(reader, limits)
    groups = [(read_form(reader, limits), [row]) for row in range(2)]
    _check_items(sum(len(form) for form, _ in groups), limits)
    end_of_head = reader.at
    params, aux = read_trees(reader, groups, 2)
    work = Work(version, params, steps, epochs, aux, hints)
    _check_exact(reader, end_of_head, _work_head(work)[0])
    return work


def _updates_head(
    updates: Sequence[Update],
) -> tuple[bytes, list[tuple[Form, list[int]]]]:
    """Return the head of a message, and which rows share which form."""
    groups = grouped(form_of(u.payload) for u in updates)
    head = [
        varint(len(updates)),
        names([u.peer for u in updates]),
        integers([u.version for u in updates]),
        integers([u.examples for u in updates]),
        _metrics_head([u.metrics for u in updates]),
        varint(len(groups)),
        *(form_head(form) for form, _ in groups),
        kinds_head(groups),
    ]
    return b"".join(head), groups


def _work_head(work: Work) -> tuple[bytes, list[tuple[Form, list[int]]]]:
    forms = [form_of(work.params), form_of(work.aux)]
    head = [
        *map(signed, (work.version, work.steps, work.epochs)),
        _hints_head(work.hints),
        *map(form_head, forms),
    ]
    return b"".join(head), [(form, [row]) for row, form in enumerate(forms)]


def _message(kind: bytes, head: bytes, body: Sequence[memoryview]) -> bytes:
    """Return a whole message, its bytes copied once."""
    check = zlib.crc32(head, zlib.crc32(_START.pack(b"FC", kind, LAYOUT, 0)[:4]))
    for part in body:
        check = zlib.crc32(part, check)
    return b"".join([_START.pack(b"FC", kind, LAYOUT, check), head, *body])


def _opened(data: bytes, kind: bytes, limits: Limits) -> Reader:
    """Return a reader of ``data`` past its start, which has been checked."""
    if len(data) > limits.message_bytes:
        raise ProtocolError(f"{len(data)} bytes, above {limits.message_bytes}")
    reader = Reader(data)
    magic, found, layout, check = _START.unpack(reader.take(_START.size))
    if (magic, found) != (b"FC", kind):
        raise ProtocolError(f"not a message of kind {kind.decode()}")
    if layout != LAYOUT:
        raise ProtocolError(f"layout {layout}, but this program knows {LAYOUT}")
    if zlib.crc32(reader.data[_START.size :], zlib.crc32(reader.data[:4])) != check:
        raise ProtocolError("damaged: the check sum differs")
    return reader


def _check_exact(reader: Reader, end: int, head: bytes) -> None:
    """Refuse bytes that are not the ones the encoder would have written."""
    if reader.left():
        raise ProtocolError(f"{reader.left()} stray bytes at the end")
    if reader.data[_START.size : end] != head:
        raise ProtocolError("not in the one form that the encoder writes")


def _metrics_head(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Return the metrics of all updates: each set of names, then its columns."""
    groups = grouped(tuple(sorted(row)) for row in rows)
    parts = [varint(len(groups))]
    parts += [varint(len(keys)) + names(keys) for keys, _ in groups]
    parts.append(kinds_head(groups))
    for keys, at in groups:
        parts += [_floats([rows[row][key] for row in at]) for key in keys]
    return b"".join(parts)


def _read_metrics(reader: Reader, count: int, limits: Limits) -> list[dict[str, float]]:
    keys: list[tuple[str, ...]] = []
    for _ in range(reader.varint(count)):
        keys.append(tuple(reader.names(reader.varint(limits.items))))
        _check_items(sum(map(len, keys)), limits)
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    for group, at in read_groups(reader, keys, count):
        for key in group:
            for row in at:
                rows[row][key] = reader.float()
    return rows


def _read_forms(reader: Reader, count: int, limits: Limits) -> list[Form]:
    forms: list[Form] = []
    for _ in range(reader.varint(count)):
        forms.append(read_form(reader, limits))
        _check_items(sum(map(len, forms)), limits)
    return forms


def _check_items(count: int, limits: Limits) -> None:
    if count > limits.items:
        raise ProtocolError(f"{count} tensors or metrics, above {limits.items}")


def _hints_head(hints: Mapping[str, int | float | str]) -> bytes:
    keys = sorted(hints)
    return varint(len(keys)) + names(keys) + b"".join(_hint(hints[k]) for k in keys)


def _hint(value: int | float | str) -> bytes:
    if isinstance(value, int):
        return bytes([_INT]) + signed(int(value))
    if isinstance(value, float):
        return bytes([_FLOAT]) + _floats([value])
    if isinstance(value, str):
        return bytes([_TEXT]) + text(value)
    raise ProtocolError(f"a hint is {shown(value)}, not a number or text")


def _read_hints(reader: Reader, limits: Limits) -> dict[str, int | float | str]:
    keys = reader.names(reader.varint(limits.items))
    return {key: _read_hint(reader, limits) for key in keys}


def _read_hint(reader: Reader, limits: Limits) -> int | float | str:
    kind = reader.take(1)[0]
    if kind == _INT:
        return reader.signed()
    if kind == _FLOAT:
        return reader.float()
    if kind == _TEXT:
        return reader.text(limits.text_bytes)
    raise ProtocolError(f"a hint of unknown type {kind}")


def _floats(values: Sequence[float]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}d", *values)
    except (struct.error, OverflowError) as error:
        raise ProtocolError(f"a metric is no number: {error}") from error
