"""The part of a Hadamard pool that is the same in every patch of weights.

z_k = D ⊙ tile(T_k), where D are the signs of the keystream and T is K rows of one
patch: Hadamard's, tied from block to block as the pool says. Then

    sum_k A_k z_k = D ⊙ tile(spread(A))        spread(A) = A T
    <z_k, u>      = gather(f)[k]               gather(f) = T f,  f = fold of D ⊙ u

so that K directions cost one transform of a patch, then one pass over the weights.
Everything here is int64 and exact; what could leave int64 is refused.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.pool.pool import Pool
from fedcore.pool.stream import PATCH, Keystream, Signs, Span, key_of

GROUP = 8  # shifts are multiples of it, so that 8 neighbours move as one
ROOM = 1 << 62  # sums of sizes stay below: half of what int64 holds


def fwht(rows: Tensor) -> Tensor:
    """Return the Walsh-Hadamard transform of each row, int64, of the shape of ``rows``.

    ``out[k] = sum_j (-1)^popcount(k & j) rows[j]``. Exact within ``contained``.
    """
    whole, half = rows, 1
    while half < rows.shape[-1]:
        low, high = whole.reshape(-1, 2, half).unbind(1)
        whole, half = torch.stack((low + high, low - high), 1), 2 * half
    return whole.reshape(rows.shape)


def contained(values: Tensor) -> int:
    """Return a number that no signed sum of ``values``, int64, exceeds in size.

    It is counted in units of 2^32, in integers, so that all machines refuse the same.

    Raises:
        ProtocolError: the sizes sum to 2^62 or more: a sum may leave int64.
    """
    total = int((values >> 32).abs().sum())
    if total >= ROOM >> 32:
        raise ProtocolError(f"coefficients saturate: sizes sum to {total:.3g} x 2^32")
    return (total + values.numel()) << 32


@dataclass(frozen=True, slots=True)
class Pattern:
    """T of one epoch of a pool, for the first ``blocks`` blocks of a patch.

    Attributes:
        size: K.
        marks: flip: p_b[k], int64 (blocks, K); else int64 (blocks, 0).
        order: shift: which group of 8 stands where, int64 (blocks, K / 8); else none.
    """

    size: int
    tie: str
    marks: Tensor
    order: Tensor

    def core(self, coefficients: Tensor) -> Tensor:
        """Return what A T is laid out from, int64, of A int64 (K,)."""
        if self.tie == "flip":
            return fwht(self.marks * coefficients).reshape(-1)
        return fwht(coefficients)

    def core_row(self, k: int) -> Tensor:
        """Return what T_k is laid out from, float32, +1 and -1."""
        row = hadamard_row(self.size, k, self.marks.device)
        return (
            (self.marks[:, k : k + 1] * row).reshape(-1) if self.tie == "flip" else row
        )

    def lay(self, core: Tensor) -> Tensor:
        """Return a patch, (blocks * K,), of its core: all of it for "flip"."""
        if self.tie == "flip":
            return core
        if self.tie == "tile":
            return core.repeat(len(self.marks))
        return core.view(-1, GROUP).index_select(0, self.order.view(-1)).view(-1)

    def spread(self, coefficients: Tensor) -> Tensor:
        """Return A T, int64 (blocks * K,), of A int64 (K,)."""
        return self.lay(self.core(coefficients))

    def row(self, k: int) -> Tensor:
        """Return T_k, float32 (blocks * K,), +1 and -1."""
        return self.lay(self.core_row(k))

    def gather(self, folded: Tensor) -> Tensor:
        """Return T f, int64 (K,), of f int64 (blocks * K,)."""
        contained(folded)
        blocks = folded.view(-1, self.size)
        if self.tie == "flip":
            return (fwht(blocks) * self.marks).sum(0)
        if self.tie == "shift":
            groups = self.order[:, :, None].expand(-1, -1, GROUP)
            apart = folded.view(len(blocks), -1, GROUP)
            blocks = apart.gather(1, groups).view(blocks.shape)
        return fwht(blocks.sum(0))


def hadamard_row(size: int, k: int, device: torch.device) -> Tensor:
    """Return row k of Sylvester's matrix of ``size``, float32 (size,), +1 and -1."""
    row = torch.ones(1, device=device)
    while len(row) < size:
        row = torch.cat((row, -row if k & len(row) else row))
    return row


@functools.lru_cache(maxsize=16)
def pattern(pool: Pool, epoch: int, numel: int, device: torch.device) -> Pattern:
    """Return the pattern of ``epoch`` of ``pool`` for vectors of ``numel`` weights."""
    blocks = max(1, -(-min(numel, PATCH) // pool.size))
    tie = "tile" if pool.tie == "shift" and pool.size <= GROUP else pool.tie
    marks = order = torch.empty(blocks, 0, dtype=torch.int64)
    if tie == "shift":
        words = Keystream(key_of(pool.seed, epoch, "shift")).words(0, blocks)
        groups = pool.size // GROUP
        order = torch.arange(groups) ^ (words.long() % groups).unsqueeze(1)
    elif tie == "flip":
        signs = Signs(key_of(pool.seed, epoch, "flip"), torch.device("cpu"))
        bits = signs.masks(Span(0, 0, blocks * pool.size, 0))
        marks = (1 + 2 * (bits >> 31).long()).view(blocks, pool.size)
    return Pattern(pool.size, tie, marks.to(device), order.to(device))
