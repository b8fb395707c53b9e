"""Signs with random access: bits of AES-128 in counter mode, one a weight.

The keystream is read as little-endian 32-bit words. Weights come in *patches* of 2^17:
32 rows of 4096. The sign of the weight in patch s, row p, column c is bit p (the lowest
is 0) of word ``4096 s + c``; a set bit is -1. So a row of signs is one shift of a row
of words: no table, no multiplication, no number that could be rounded.

Keys come from the pool's seed by HKDF-SHA256 (RFC 5869), one for every epoch and
purpose, so that streams do not meet. Counter block: 64 bits lane, 64 bits place.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from fedcore.errors import ConfigError

INFO = b"fedcore/seedpool/v1"
ROW = 4096  # a patch and what it is added to stay in a core's own cache
ROWS = 32
PATCH = ROW * ROWS
SIGN = -(1 << 31)  # the sign bit of a float32, as int32
CUDA_PATCHES = 32  # a device wants more at once: 4 M weights, 16 MB


@functools.lru_cache(maxsize=256)
def key_of(seed: int, epoch: int = 0, purpose: str = "") -> bytes:
    """Return the 16-byte key of ``epoch`` of the pool named ``seed``, for a purpose.

    Raises:
        ConfigError: ``seed`` or ``epoch`` is not in 0 .. 2^64 - 1.
    """
    if not (0 <= seed < 1 << 64 and 0 <= epoch < 1 << 64):
        raise ConfigError(f"pool seed {seed}, epoch {epoch}: take 0 .. 2^64 - 1")
    info = INFO + epoch.to_bytes(8, "little") + purpose.encode()
    kdf = HKDF(algorithm=SHA256(), length=16, salt=None, info=info)
    return kdf.derive(seed.to_bytes(8, "little"))


class Keystream:
    """The words of one key and lane; to read on from the last place is cheapest."""

    def __init__(self, key: bytes, lane: int = 0) -> None:
        self._key, self._lane, self._next = key, lane, -1

    def words(self, first: int, count: int) -> Tensor:
        """Return words ``first .. first + count``, int32; ``first`` a multiple of 4."""
        if first != self._next:
            nonce = self._lane.to_bytes(8, "big") + (first // 4).to_bytes(8, "big")
            self._cipher = Cipher(AES(self._key), CTR(nonce)).encryptor()
        self._next = first + count
        made = bytearray(4 * count + 15)  # the cipher asks for room to spare
        self._cipher.update_into(bytes(4 * count), made)
        return torch.frombuffer(made, dtype=torch.int32, count=count)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring weights that are worked on at once.

    Attributes:
        patch: the first patch that they lie in.
        lo: the first weight, counted from the start of that patch.
        hi: the end, counted from there too.
        at: how many weights of the vector come before.
    """

    patch: int
    lo: int
    hi: int
    at: int


def at_once(device: torch.device) -> int:
    """Return how many patches are worked on at once; the bits do not depend on it."""
    return CUDA_PATCHES if device.type == "cuda" else 1


def spans(start: int, numel: int, device: torch.device) -> Iterator[Span]:
    """Cut places ``start .. start + numel`` of a vector, patch by patch.

    Raises:
        ConfigError: there are no such places.
    """
    if start < 0 or numel < 0:
        raise ConfigError(f"{numel} places from place {start}: take 0 or more")
    step = PATCH * at_once(device)
    at = 0
    while at < numel:
        patch, lo = divmod(start + at, PATCH)
        hi = min(lo + numel - at, step)
        yield Span(patch, lo, hi, at)
        at += hi - lo


class Signs:
    """The signs D of one key and lane, as sign bits; what is returned is overwritten.

    Every result is scratch: it holds until the next call.
    """

    def __init__(self, key: bytes, device: torch.device, lane: int = 0) -> None:
        self._stream, self._device = Keystream(key, lane), device
        self._shifts = torch.arange(31, -1, -1, dtype=torch.int32, device=device)
        self._room = torch.empty(0, dtype=torch.int32, device=device)

    def masks(self, span: Span) -> Tensor:
        """Return the sign bit of each weight, the others 0, int32 (hi - lo,)."""
        first = span.lo // ROW if span.hi <= PATCH else 0
        begin = first * ROW
        return self._rows(span, first)[span.lo - begin : span.hi - begin]

    def flip(self, values: Tensor, span: Span) -> Tensor:
        """Return ``D * values``, float32 (hi - lo,), as ``values``."""
        signed = self.masks(span).bitwise_xor_(values.view(torch.int32))
        return signed.view(torch.float32)

    def flip_tiled(self, line: Tensor, span: Span) -> Tensor:
        """Return ``D * line``, float32 (hi - lo,); ``line`` repeats every patch."""
        if span.hi <= PATCH:
            return self.flip(line[span.lo : span.hi], span)
        whole = self._rows(span, 0)
        whole.view(-1, PATCH).bitwise_xor_(line.view(torch.int32))
        return whole[span.lo : span.hi].view(torch.float32)

    def _rows(self, span: Span, first: int) -> Tensor:
        """Return the sign bits from row ``first`` of the first patch on."""
        patches, rows = -(-span.hi // PATCH), min(ROWS, -(-span.hi // ROW)) - first
        words = self._stream.words(span.patch * ROW, patches * ROW).to(self._device)
        if self._room.shape != (patches, rows, ROW):
            self._room = torch.empty(
                patches, rows, ROW, dtype=torch.int32, device=self._device
            )
        shifts = self._shifts[first : first + rows, None]
        torch.bitwise_left_shift(words.view(patches, 1, ROW), shifts, out=self._room)
        return self._room.bitwise_and_(SIGN).view(-1)
