"""Sums of directions: what integer coefficients add to the weights of a span.

A sum holds ``sum_k A_k z_k`` and gives ``scale * 2^-32`` times it, rounded once to
float32; a *probe* ``eps * z_k`` may be added before that rounding.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fedcore import ring
from fedcore.pool.layout import Layout
from fedcore.pool.pattern import pattern
from fedcore.pool.pool import Pool
from fedcore.pool.stream import PATCH, Signs, Span, key_of, spans
from fedcore.seeds import seed_of

NORMALS = 1 << 16  # normal numbers of one seed: torch's are not prefix-stable

Change = Callable[[Span], Tensor]  # to the weights of a span, float32; scratch


class Sum(Protocol):
    """A sum of the directions of one epoch."""

    def add(self, k: int, amount: int) -> None:
        """Add ``amount`` to coefficient ``k``."""

    def change(self, scale: float, k: int = 0, eps: float = 0.0) -> Change:
        """Return ``scale * 2^-32 * sum + eps * z_k``, span by span."""


def sum_of(pool: Pool, line: Tensor, epoch: int, layout: Layout) -> Sum:
    """Return the sum of coefficients ``line``, int64 (K,), over ``layout``."""
    if pool.kind == "hadamard":
        return Woven(pool, line, epoch, layout)
    return _Loose(pool, line, epoch, layout)


class Woven:
    """The sum of a Hadamard pool: a few integers, however large the model."""

    def __init__(self, pool: Pool, line: Tensor, epoch: int, layout: Layout) -> None:
        self._key, self._device = key_of(pool.seed, epoch), layout.device
        self._pool = pool
        self._pattern = pattern(pool, epoch, layout.numel, layout.device)
        self._core = self._pattern.core(line.to(layout.device))

    def add(self, k: int, amount: int) -> None:
        self._pool.check(k)
        self._core.add_(self._pattern.core_row(k).long(), alpha=amount)

    def tile(self, scale: float, k: int = 0, eps: float = 0.0) -> Tensor:
        """Return ``change`` without D: float32, one patch, which all repeat."""
        core = self._core.double().mul_(scale / ring.ONE)
        if eps:
            self._pool.check(k)
            core.add_(self._pattern.core_row(k), alpha=eps)  # +-eps is exact
        return self._pattern.lay(core.float())

    def change(self, scale: float, k: int = 0, eps: float = 0.0) -> Change:
        signs, tile = Signs(self._key, self._device), self.tile(scale, k, eps)
        return lambda span: signs.flip_tiled(tile, span)

    def signs(self, span: Span) -> Tensor:
        """Return the signs D of a span as +1 and -1, float32 (hi - lo,)."""
        ones = torch.ones(span.hi - span.lo, device=self._device)
        return Signs(self._key, self._device).flip(ones, span).clone()


class _Loose:
    """The sum of independent directions: as many numbers as the model has weights."""

    def __init__(self, pool: Pool, line: Tensor, epoch: int, layout: Layout) -> None:
        self._pool, self._epoch, self._layout = pool, epoch, layout
        exact = torch.float64 if pool.kind == "gaussian" else torch.int64
        self._total = torch.zeros(layout.numel, dtype=exact, device=layout.device)
        for k in line.nonzero().flatten().tolist():
            self.add(k, int(line[k]))

    def add(self, k: int, amount: int) -> None:
        part = part_of(self._pool, k, self._epoch, self._layout.device)
        for span in spans(0, self._layout.numel, self._layout.device):
            here = self._total[span.at : span.at + span.hi - span.lo]
            here.add_(part(span).to(here.dtype).mul_(amount))

    def change(self, scale: float, k: int = 0, eps: float = 0.0) -> Change:
        part = part_of(self._pool, k, self._epoch, self._layout.device)

        def change(span: Span) -> Tensor:
            total = self._total[span.at : span.at + span.hi - span.lo]
            real = total.double() * (scale / ring.ONE)  # a new one: gaussian is float64
            return (real.add_(part(span).double() * eps) if eps else real).float()

        return change


def part_of(
    pool: Pool, k: int, epoch: int, device: torch.device, end: int = PATCH
) -> Change:
    """Return z_k itself, span by span, up to place ``end`` of the vector.

    Raises:
        ProtocolError: the pool has no direction ``k``.
    """
    pool.check(k)
    if pool.kind == "gaussian":
        return lambda span: _normals(pool, k, epoch, span).to(device)
    key = key_of(pool.seed, epoch)
    if pool.kind == "signs":
        signs, tile = Signs(key, device, lane=k), torch.ones(PATCH, device=device)
    else:
        signs, tile = Signs(key, device), pattern(pool, epoch, end, device).row(k)
    return lambda span: signs.flip_tiled(tile, span)


def _normals(pool: Pool, k: int, epoch: int, span: Span) -> Tensor:
    start = span.patch * PATCH + span.lo
    first, skip = divmod(start, NORMALS)
    end = start + span.hi - span.lo
    parts = []
    for block in range(first, -(-end // NORMALS)):
        seed = seed_of("gaussian pool", pool.seed, epoch, k, block)
        source = torch.Generator().manual_seed(seed)
        parts.append(torch.randn(NORMALS, generator=source))
    return torch.cat(parts)[skip : skip + end - start]
