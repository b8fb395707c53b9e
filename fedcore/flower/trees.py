"""Named tensors as Flower arrays, checked on the way back.

Two things Flower cannot say by itself go into a record ``<key>.layout``: bfloat16
travels as int16 bits, because NumPy has no such type; and a model of many small
tensors travels as one array per dtype, because every array costs requests of its
own on every hop of a deployment.

Bytes are checked before they become tensors; no pickle is involved.
"""

import math
import re
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.params import Params, size_bytes

FEW_TENSORS = 8  # up to here every tensor keeps an array of its own
SMALL_BYTES = 64 * 1024  # mean tensor size below which joining pays
MAX_TENSORS = 100_000
MAX_NAME = 256  # characters
MAX_DIMS = 8
LAYOUT = ".layout"

KINDS = {  # how NumPy writes it -> torch's dtype
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}
MAX_HEADER = 512  # bytes; NumPy's own are 128 for up to eight axes
HEADER = re.compile(  # exactly as NumPy writes it, whatever length it claims
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|]\w\d)', 'fortran_order': (True|False), "
    rb"'shape': \((|\d{1,15},|\d{1,15}(?:, \d{1,15}){1,7})\), \} *\n",
    re.DOTALL,
)

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def record_of(records: RecordDict, key: str, kind: type[Record]) -> Record:
    """Return the record ``key`` of type ``kind``.

    Raises:
        ProtocolError: it is missing or of another type.
    """
    record = records.get(key)
    if not isinstance(record, kind):
        found = "nothing" if record is None else type(record).__name__
        raise ProtocolError(f"expected {kind.__name__} {key!r}, found {found}")
    return record


def pack_tree(key: str, tree: Params, join: bool) -> dict[str, Any]:
    """Return records for ``tree``: the arrays under ``key``, and a layout if needed."""
    if join and len(tree) > FEW_TENSORS and size_bytes(tree) < SMALL_BYTES * len(tree):
        return _pack_joined(key, tree)
    arrays = ArrayRecord({name: _array(t) for name, t in tree.items()})
    half = [name for name, t in tree.items() if t.dtype == torch.bfloat16]
    layout = {key + LAYOUT: ConfigRecord({"bfloat16": half})} if half else {}
    return {key: arrays, **layout}


def _pack_joined(key: str, tree: Params) -> dict[str, Any]:
    """One array per dtype; the layout lists names, dtypes and shapes in order."""
    joined: dict[str, list[Tensor]] = {}
    names: list[str] = []
    dtypes: list[str] = []
    ranks: list[int] = []
    dims: list[int] = []
    for name, t in tree.items():
        dtype = str(t.dtype).removeprefix("torch.")
        joined.setdefault(dtype, []).append(t.detach().reshape(-1))
        names.append(name)
        dtypes.append(dtype)
        ranks.append(t.dim())
        dims.extend(t.shape)
    arrays = {dtype: _array(torch.cat(parts)) for dtype, parts in joined.items()}
    layout = ConfigRecord(
        {"names": names, "dtypes": dtypes, "ranks": ranks, "dims": dims}
    )
    return {key: ArrayRecord(arrays), key + LAYOUT: layout}


def unpack_tree(records: RecordDict, key: str) -> Params:
    """Return the tensors under ``key``; they share no memory with the message.

    Raises:
        ProtocolError: missing, malformed, or of a type that is never sent.
    """
    arrays = record_of(records, key, ArrayRecord)
    if len(arrays) > MAX_TENSORS:
        raise ProtocolError(f"{len(arrays)} arrays in {key!r}; at most {MAX_TENSORS}")
    tree = {name: tensor_of(name, array) for name, array in arrays.items()}
    if key + LAYOUT not in records:
        return tree
    layout = record_of(records, key + LAYOUT, ConfigRecord)
    if "names" in layout:
        return _split(tree, layout)
    half = set(_column(layout, "bfloat16", str))
    return {n: _as_bfloat16(n, t) if n in half else t for n, t in tree.items()}


def _split(joined: Params, layout: ConfigRecord) -> Params:
    """Cut joined arrays back into named tensors; every number must be used once."""
    names, dtypes = _column(layout, "names", str), _column(layout, "dtypes", str)
    ranks, dims = _column(layout, "ranks", int), _column(layout, "dims", int)
    if not len(names) == len(set(names)) == len(dtypes) == len(ranks):
        raise ProtocolError("the layout's columns differ in length, or a name is twice")
    if min(ranks, default=0) < 0 or sum(ranks) != len(dims):
        raise ProtocolError("the layout's dims do not fit its ranks")
    rest = {d: _as_bfloat16(d, t) if d == "bfloat16" else t for d, t in joined.items()}
    tree: dict[str, Tensor] = {}
    used, at = dict.fromkeys(rest, 0), 0
    for name, dtype, rank in zip(names, dtypes, ranks, strict=True):
        check_name(name)
        shape = tuple(dims[at : at + rank])
        _check_shape(name, shape)
        at += rank
        whole_array, start = rest.get(dtype), used.get(dtype, 0)
        stop = start + math.prod(shape)
        if whole_array is None or whole_array.dim() != 1 or stop > len(whole_array):
            raise ProtocolError(f"the layout asks for more {dtype} than were sent")
        tree[name] = whole_array[start:stop].view(shape)
        used[dtype] = stop
    if any(used[d] != len(t) for d, t in rest.items()):
        raise ProtocolError("the layout leaves numbers unused")
    return tree


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    return Array(plain.numpy())


def tensor_of(name: str, array: Array) -> Tensor:
    """Return ``array`` as a tensor of its own memory.

    Reads the header of the NumPy format and checks it against the length of the
    data before anything is allocated.

    Raises:
        ProtocolError: another format, a dtype that is never sent, or a wrong length.
    """
    check_name(name)
    head = HEADER.match(array.data[:MAX_HEADER])
    if array.stype != "numpy.ndarray" or head is None:
        raise ProtocolError(f"{name!r} is not an array in NumPy's format")
    code, order, dims = (part.decode() for part in head.groups())
    if code not in KINDS:
        raise ProtocolError(f"{name!r} has dtype {code}, which is never sent")
    shape = tuple(int(n) for n in dims.split(",") if n.strip())
    _check_shape(name, shape)
    data, dtype = memoryview(array.data)[head.end() :], np.dtype(code)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ProtocolError(f"{name!r}: {len(data)} bytes do not fill shape {shape}")
    if code == "|b1" and data.tobytes().translate(None, b"\0\1"):
        raise ProtocolError(f"{name!r} holds a truth value that is neither 0 nor 1")
    flat = np.frombuffer(data, dtype)
    numbers = flat.reshape(shape[::-1]).T if order == "True" else flat.reshape(shape)
    own = torch.empty(shape, dtype=KINDS[code])
    own.numpy()[...] = numbers
    return own


def _as_bfloat16(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.int16:
        raise ProtocolError(f"{name!r} is declared bfloat16 but holds {tensor.dtype}")
    return tensor.view(torch.bfloat16)


def _column(layout: ConfigRecord, key: str, kind: type) -> list[Any]:
    column = layout.get(key)
    if not isinstance(column, list) or len(column) > MAX_TENSORS * MAX_DIMS:
        raise ProtocolError(f"the layout has no sound column {key!r}")
    if not all(type(value) is kind for value in column):
        raise ProtocolError(f"column {key!r} of the layout holds other than {kind}")
    return column


def check_name(name: str) -> None:
    """Refuse a name that is empty or too long."""
    if not 0 < len(name) <= MAX_NAME:
        raise ProtocolError(f"a name has {len(name)} characters; at most {MAX_NAME}")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes that no tensor here has, even where a zero makes them empty."""
    size = math.prod(max(n, 1) for n in shape)
    if len(shape) > MAX_DIMS or min(shape, default=0) < 0 or size >= 2**40:
        raise ProtocolError(f"{name!r} has an impossible shape of {len(shape)} axes")
