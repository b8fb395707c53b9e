"""Models as blobs: safetensors and nothing else, checked before a library sees them.

Equal parameters give equal bytes, and so one id on every machine.
"""

import json
import math
from typing import Any

import safetensors
import safetensors.torch

from fedcore.errors import ProtocolError
from fedcore.names import fault_of, shown
from fedcore.params import Params
from p2p.content.adding import add_bytes
from p2p.content.cid import Cid
from p2p.content.manifest import SAFETENSORS
from p2p.content.shelf import GIB, Shelf

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS, MAX_DIMS = 1 << 14, 8
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


def put_params(shelf: Shelf, params: Params, *, pin: bool = True) -> Cid:
    """Put a model on ``shelf`` as safetensors; durable on return. Returns its id.

    Raises:
        StorageError: no room; nothing changed.
    """
    whole = {name: t.detach().cpu().contiguous() for name, t in params.items()}
    return add_bytes(shelf, safetensors.torch.save(whole), SAFETENSORS, pin=pin)


def get_params(shelf: Shelf, cid: Cid, *, limit_bytes: int = 64 * GIB) -> Params:
    """Return the model with this id.

    Raises:
        ProtocolError: it is not here whole, too large, or no sound safetensors file.
        StorageError: it is damaged.
    """
    manifest = shelf.manifest(cid)
    if manifest is not None and manifest.kind != SAFETENSORS:
        raise ProtocolError(f"{cid} is {shown(manifest.kind)}, not a model")
    if manifest is not None and manifest.size_bytes > limit_bytes:
        raise ProtocolError(f"a model of {manifest.size_bytes} bytes")
    data, checked = bytearray(), False
    for chunk in shelf.chunks(cid):
        data += chunk
        if manifest is not None and not checked:
            checked = check_start(data, manifest.size_bytes)
    if not checked:
        raise ProtocolError("no header, or one that is cut short")
    try:
        return safetensors.torch.load(bytes(data))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ProtocolError(f"not a sound safetensors file: {error}") from error


def check_start(start: bytes | bytearray, size_bytes: int) -> bool:
    """Check the header of a safetensors file of ``size_bytes`` by its first bytes.

    Returns:
        Whether ``start`` held all of the header; if not, ask again with more.

    Raises:
        ProtocolError: the header is too large, malformed, or does not fit the size.
    """
    if len(start) < _LENGTH_BYTES:
        return False
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
        raise ProtocolError(f"a header of {length} bytes in a file of {size_bytes}")
    end = _LENGTH_BYTES + length
    if len(start) < end:
        return False
    _check_spans(_parsed(bytes(start[_LENGTH_BYTES:end])), size_bytes - end)
    return True


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("a header that is no table")
    header.pop(_METADATA, None)
    if len(header) > MAX_TENSORS:
        raise ProtocolError(f"{len(header)} tensors, above {MAX_TENSORS}")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name twice")
    return table


def _check_spans(header: dict[str, Any], size_bytes: int) -> None:
    """Raise ProtocolError unless the tensors fill the rest of the file."""
    end = 0
    for begin, stop in sorted(_span(name, told) for name, told in header.items()):
        if begin != end:
            raise ProtocolError(f"a gap or an overlap at byte {end}")
        end = stop
    if end != size_bytes:
        raise ProtocolError(f"tensors of {end} bytes in {size_bytes}")


def _span(name: str, told: object) -> tuple[int, int]:
    """Return where the numbers of one tensor begin and end."""
    wrong = fault_of(name)
    if wrong is not None:
        raise ProtocolError(f"the name of a tensor {wrong}")
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise ProtocolError(f"{shown(name)} is not described as a tensor")
    dtype, shape, span = told["dtype"], told["shape"], told["data_offsets"]
    if not (_sizes(shape, MAX_DIMS) and _sizes(span, 2) and len(span) == 2):
        raise ProtocolError(f"{shown(name)} has a shape or a place that cannot be")
    item = _SIZES.get(dtype) if isinstance(dtype, str) else None
    if item is None or item * math.prod(shape) != span[1] - span[0]:
        raise ProtocolError(f"{shown(name)} does not have the bytes of its shape")
    return span[0], span[1]


def _sizes(values: object, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(v) is int and 0 <= v < 1 << 48 for v in values)
    )
