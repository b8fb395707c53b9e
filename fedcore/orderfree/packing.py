"""Rows of integers as bytes, in as few bytes each as the largest needs; and back.

A row is one byte w, 1 to 8, and then the low w bytes of every number, lowest first,
negative ones as two's complement. Reading never takes more than eight times the
memory of the bytes that are there, and takes nothing before they are.
"""

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.wire import Reader


def packed(row: Tensor) -> bytes:
    """Return ``row``, int64 (n,), as ``1 + w n`` bytes."""
    numbers = np.ascontiguousarray(row.numpy(), dtype="<i8")
    width = _width(numbers)
    raw = numbers.view(np.uint8).reshape(-1, 8)[:, :width]
    return bytes([width]) + raw.tobytes()


def read_packed(reader: Reader, count: int) -> Tensor:
    """Return the next row, of ``count`` numbers, int64 (count,).

    Raises:
        ProtocolError: it is cut short, or has no width of 1 to 8.
    """
    width = reader.take(1)[0]
    if not 1 <= width <= 8:
        raise ProtocolError(f"integers of {width} bytes before byte {reader.at}")
    low = np.frombuffer(reader.take(count * width), np.uint8).reshape(count, width)
    whole = np.zeros((count, 8), np.uint8)
    whole[:, 8 - width :] = low  # at the top, so that the shift copies the sign
    shifted = whole.view("<i8").reshape(count) >> (64 - 8 * width)
    return torch.from_numpy(shifted.astype(np.int64))


def packed_places(places: Tensor, size: int) -> bytes:
    """Return ``places``, ascending and below ``size``, in the shorter of two forms.

    Two bytes each; or a bit for each of ``size``, where that is not longer.

    Raises:
        ProtocolError: one is not in 0 .. ``size - 1``.
    """
    numbers = places.numpy()
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < size:
        raise ProtocolError(f"a place that is not in 0 .. {size - 1}")
    if _as_bits(len(numbers), size):
        bits = np.zeros(size, np.uint8)
        bits[numbers] = 1
        return np.packbits(bits, bitorder="little").tobytes()
    return numbers.astype("<u2").tobytes()


def read_places(reader: Reader, count: int, size: int) -> Tensor:
    """Return ``count`` places below ``size``, int64 (count,).

    Raises:
        ProtocolError: it is cut short, or there are not ``count`` of them.
    """
    if not _as_bits(count, size):
        numbers = np.frombuffer(reader.take(2 * count), "<u2")
        return torch.from_numpy(numbers.astype(np.int64))
    raw = np.frombuffer(reader.take(-(-size // 8)), np.uint8)
    found = np.flatnonzero(np.unpackbits(raw, bitorder="little"))
    if len(found) != count:
        raise ProtocolError(f"{len(found)} places marked, not {count}")
    return torch.from_numpy(found.astype(np.int64))


def _width(numbers: "np.ndarray") -> int:
    """Return how many bytes hold every number, 1 to 8."""
    top = max(int(numbers.max()), -int(numbers.min()) - 1) if numbers.size else 0
    return max(1, (max(top, 0).bit_length() + 8) // 8)


def _as_bits(count: int, size: int) -> bool:
    return -(-size // 8) <= 2 * count
