"""From coefficients to weights: ``w = base + scale * sum_k A_k 2^-32 z_k``.

Per epoch of the pool the sum is taken in integers, exactly; it is rounded to float32
once and added once. So the order of what was summed, the number of threads and the
device leave no trace in the bits.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from fedcore import ring
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.pool.layout import Layout, Piece, blank, lines_of, wide
from fedcore.pool.pattern import contained
from fedcore.pool.pool import Pool
from fedcore.pool.stream import Span, spans
from fedcore.pool.sums import Change, part_of, sum_of

GROUP = 32  # spans that go through all epochs together, so that they stay in cache
LARGEST = 1e38  # a change of one weight must fit in float32

Group = Sequence[tuple[Span, Sequence[Piece]]]


@torch.no_grad()
def direction(
    pool: Pool, k: int, numel: int, *, epoch: int = 0, start: int = 0
) -> Tensor:
    """Return places ``start .. start + numel`` of z_k, float32 (numel,).

    Raises:
        ProtocolError: the pool has no direction ``k``.
    """
    cpu, made = torch.device("cpu"), torch.empty(numel)
    part = part_of(pool, k, epoch, cpu, start + numel)
    for span in spans(start, numel, cpu):
        made[span.at : span.at + span.hi - span.lo] = part(span)
    return made


@torch.no_grad()
def expand(pool: Pool, coefficients: Tensor, scale: float, base: Params) -> Params:
    """Return ``base + scale * sum_k A_k 2^-32 z_k``, one epoch after another.

    Args:
        pool: the directions. Kinds other than "hadamard" take eight bytes a weight
            of memory and K passes.
        coefficients: A, int64 (E, K); row e belongs to epoch e of the pool.
        scale: of the whole sum, finite.
        base: real tensors of any shapes and floating types, on one device.

    Returns:
        New tensors like those of ``base``. An epoch is rounded to float32 (float64
        where the weights are); types below are rounded once more, at the end.

    Raises:
        ConfigError: ``base`` or ``scale`` cannot be expanded.
        ProtocolError: ``coefficients`` are of another form, or saturate.
    """
    made = {name: blank(t, t.dtype) for name, t in base.items()}
    _write(pool, coefficients, scale, base, made)
    return made


@torch.no_grad()
def widened(pool: Pool, coefficients: Tensor, scale: float, base: Params) -> Params:
    """Return ``expand`` before its last rounding: tensors of float32 or more."""
    made = {name: blank(t, wide(t.dtype)) for name, t in base.items()}
    _write(pool, coefficients, scale, base, made)
    return made


def _write(
    pool: Pool, coefficients: Tensor, scale: float, base: Params, made: Params
) -> None:
    check(pool, coefficients, scale)
    layout, old, new = Layout.of(base), lines_of(base), lines_of(made)
    parts = layout.walk()
    # independent directions are summed for all weights at once: one group
    while group := list(islice(parts, GROUP if pool.kind == "hadamard" else None)):
        here, there = views(group, old), views(group, new)
        rooms = there if len(coefficients) == 1 else [_room(t) for t in there]
        for epoch, line in enumerate(coefficients):
            goal = there if epoch == len(coefficients) - 1 else rooms
            add(sum_of(pool, line, epoch, layout).change(scale), group, here, goal)
            here = goal
        if not len(coefficients):
            for old_part, new_part in zip(here, there, strict=True):
                new_part.copy_(old_part)


def add(
    change: Change, group: Group, here: Sequence[Tensor], to: Sequence[Tensor]
) -> None:
    """Write ``here + change`` into ``to``: views of the pieces, in order."""
    pairs = zip(here, to, strict=True)
    for span, pieces in group:
        line = change(span)
        for piece, (old, new) in zip(pieces, pairs, strict=False):
            torch.add(old, line[piece.lo : piece.hi], out=new)


def views(group: Group, lines: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what the pieces of ``group`` are in ``lines``, in order."""
    return [piece.of(lines) for _, pieces in group for piece in pieces]


def _room(t: Tensor) -> Tensor:
    kind = wide(t.dtype)
    return t if t.dtype == kind else torch.empty_like(t, dtype=kind)


def check(pool: Pool, coefficients: Tensor, scale: float) -> None:
    """Refuse coefficients that are not of ``pool`` or that would leave float32.

    Raises:
        ConfigError: ``scale`` is not finite.
        ProtocolError: ``coefficients`` are not int64 (E, K), or saturate.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"pool scale {scale}: take a finite number")
    form = coefficients.dtype, coefficients.dim(), coefficients.shape[-1:]
    if form != (torch.int64, 2, (pool.size,)):
        kind, shape = coefficients.dtype, tuple(coefficients.shape)
        raise ProtocolError(f"coefficients {kind} {shape}: not int64 (E, {pool.size})")
    for line in coefficients:
        if contained(line) * abs(scale) / ring.ONE > LARGEST:
            raise ProtocolError(f"coefficients at scale {scale:g} leave float32")
