"""The form of a tree of tensors (names, dtypes, shapes), and its raw bytes.

A piece of ``fedcore.codec``. Updates of one form share one description, and their
tensors are laid side by side, name by name.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.params import Params, bytes_of
from fedcore.wire import Limits, Reader, integers, names, varint

DTYPES: tuple[torch.dtype, ...] = (  # the index is the code: only append
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
)
MAX_NUMBERS = 1 << 48  # of one tensor, zeros in its shape aside
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}

Key = TypeVar("Key", bound=Hashable)
Form: TypeAlias = tuple[tuple[str, int, tuple[int, ...]], ...]  # name, code, shape


def grouped(keys: Iterable[Key]) -> list[tuple[Key, list[int]]]:
    """Return each different key with its positions, in order of appearance."""
    groups: dict[Key, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.items())


def kinds_head(groups: Sequence[tuple[Any, Sequence[int]]]) -> bytes:
    """Return which group each position belongs to; nothing if there is one group."""
    if len(groups) < 2:
        return b""
    kinds = {at: kind for kind, (_, rows) in enumerate(groups) for at in rows}
    return integers([kinds[at] for at in range(len(kinds))])


def read_groups(
    reader: Reader, keys: Sequence[Key], count: int
) -> list[tuple[Key, list[int]]]:
    """Return ``keys``, each with its positions out of ``count``; none is unused."""
    rows: list[list[int]] = [[] for _ in keys]
    for position, kind in enumerate(_read_kinds(reader, len(keys), count)):
        if not 0 <= kind < len(keys):
            raise ProtocolError(f"kind {kind} of {len(keys)}")
        rows[kind].append(position)
    if not all(rows):
        raise ProtocolError("a description that nothing uses")
    return list(zip(keys, rows, strict=True))


def _read_kinds(reader: Reader, kinds: int, count: int) -> Sequence[int]:
    return reader.integers(count) if kinds > 1 else [0] * count


def form_of(tree: Params) -> Form:
    """Return the form of ``tree``, sorted by name.

    Raises:
        ProtocolError: a tensor is of a dtype or layout that cannot be sent.
    """
    for name, t in tree.items():
        if t.dtype not in _CODES or t.layout != torch.strided:
            raise ProtocolError(f"{name}: {t.dtype} ({t.layout}) cannot be sent")
    items = ((name, _CODES[t.dtype], tuple(t.shape)) for name, t in tree.items())
    return tuple(sorted(items, key=lambda item: str(item[0])))


def form_head(form: Form) -> bytes:
    """Return the bytes of ``form``."""
    parts = [varint(len(form)), names([name for name, _, _ in form])]
    for _, code, shape in form:
        parts += [varint(code), varint(len(shape)), *map(varint, shape)]
    return b"".join(parts)


def read_form(reader: Reader, limits: Limits) -> Form:
    """Return the form that comes next."""
    found = reader.names(reader.varint(limits.items))
    if any(a >= b for a, b in pairwise(found)):
        raise ProtocolError("tensor names are not sorted, or one comes twice")
    return tuple((name, *_read_shape(reader, limits)) for name in found)


def _read_shape(reader: Reader, limits: Limits) -> tuple[int, tuple[int, ...]]:
    code = reader.varint(len(DTYPES) - 1)
    shape = tuple(reader.varint() for _ in range(reader.varint(limits.dims)))
    if prod(max(length, 1) for length in shape) > MAX_NUMBERS:
        raise ProtocolError(f"a tensor of more than {MAX_NUMBERS} numbers")
    return code, shape


def trees_body(
    groups: Sequence[tuple[Form, Sequence[int]]], trees: Sequence[Params]
) -> list[memoryview]:
    """Return the raw bytes of all ``trees``, group by group and name by name."""
    return [
        bytes_of(trees[row][name])
        for form, rows in groups
        for name, _, _ in form
        for row in rows
    ]


def read_trees(
    reader: Reader, groups: Sequence[tuple[Form, list[int]]], count: int
) -> list[Params]:
    """Return the ``count`` trees that fill the rest of the message.

    Raises:
        ProtocolError: the rest is shorter or longer than ``groups`` say; checked
            before anything is allocated.
    """
    size = sum(len(rows) * _size_bytes(form) for form, rows in groups)
    if size != reader.left():
        raise ProtocolError(f"{reader.left()} bytes of tensors, not {size}")
    trees: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for form, rows in groups:
        for name, code, shape in form:
            column = _read_column(reader, DTYPES[code], (len(rows), *shape))
            for row, t in zip(rows, column, strict=True):
                trees[row][name] = t
    return list(trees)


def _size_bytes(form: Form) -> int:
    return sum(prod(shape) * DTYPES[code].itemsize for _, code, shape in form)


def _read_column(
    reader: Reader, dtype: torch.dtype, shape: tuple[int, ...]
) -> list[Tensor]:
    """Return ``shape[0]`` tensors, each with memory of its own."""
    raw = bytearray(reader.take(prod(shape) * dtype.itemsize))
    if dtype == torch.bool and raw.translate(None, b"\0\1"):
        raise ProtocolError("a truth value that is neither 0 nor 1")
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    column = flat.view(shape).unbind(0)
    return list(column) if len(column) == 1 else [t.clone() for t in column]
