"""IDX files, the format of MNIST and its kin: a big-endian head, then raw bytes.

Format: two zero bytes, the code of the element type (8: unsigned byte), the
number of dimensions, each dimension as an unsigned 32-bit integer, the data.
"""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedcore.errors import StorageError

MAX_BYTES = 1 << 28  # five times the largest MNIST file; a gzip bomb stops here
UNSIGNED_BYTE = 8
MAX_DIMENSIONS = 4

Bytes = npt.NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """Return the array in the IDX file ``path``, gzipped or not.

    Raises:
        StorageError: the file is missing, damaged, cut short or too large.
    """
    return parse_idx(read_bounded(path), str(path))


def read_bounded(path: Path) -> bytes:
    """Return the bytes of ``path``, unpacked if its name ends in ``.gz``.

    Raises:
        StorageError: it cannot be read, or unpacks to more than ``MAX_BYTES``.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise StorageError(f"{path} holds more than {MAX_BYTES} bytes")
    return data


def parse_idx(data: bytes, name: str) -> Bytes:
    """Return the array in ``data``; ``name`` is for messages.

    Raises:
        StorageError: the head is wrong, or the length does not match it.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTE:
        raise StorageError(f"{name} is not an IDX file of bytes")
    dimensions, head = data[3], 4 + 4 * data[3]
    if not 1 <= dimensions <= MAX_DIMENSIONS or len(data) < head:
        raise StorageError(f"{name} has a damaged head of {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    if prod(shape) != len(data) - head:
        raise StorageError(
            f"{name} should hold {prod(shape)} bytes of shape {shape}, "
            f"but holds {len(data) - head}: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
