"""From a change of weights to coefficients: ``c_k = <z_k, change>``, exactly.

A number u is taken as round(u 2^32), as everywhere on the ring; from there on there
are only sums of integers, which are exact in any order.
"""

import math

import torch
from torch import Tensor

from fedcore import ring
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.pool.layout import Layout, lines_of
from fedcore.pool.pattern import ROOM, contained, pattern
from fedcore.pool.pool import Pool
from fedcore.pool.stream import Signs, key_of, spans
from fedcore.pool.sums import part_of

NEAR = 2.0**31  # int32 holds every integer below


@torch.no_grad()
def project(pool: Pool, change: Params, *, epoch: int = 0) -> Tensor:
    """Return ``<z_k, change>`` for every k, in units of 2^-32, int64 (K,).

    For a Hadamard pool and whole blocks, ``expand`` of this at scale ``1 / d`` is the
    orthogonal projection of ``change`` on the span of the pool.

    Args:
        pool: the directions. Kinds other than "hadamard" take K passes.
        change: real tensors; numbers are taken as float32.
        epoch: of the pool.

    Raises:
        ConfigError: ``change`` is not of real tensors on one device.
        ProtocolError: a number is not finite, or the sums would leave int64.
    """
    layout = Layout.of(change)
    if pool.kind != "hadamard":
        return _one_by_one(pool, change, epoch, layout)
    tie = pattern(pool, epoch, layout.numel, layout.device)
    tally = Tally(len(tie.row(0)), layout.device)
    signs, lines = Signs(key_of(pool.seed, epoch), layout.device), lines_of(change)
    for span, pieces in layout.walk():
        signed = signs.masks(span)
        for piece in pieces:
            real = piece.of(lines).float()
            signed[piece.lo : piece.hi].bitwise_xor_(real.view(torch.int32))
        tally.add(_whole(signed.view(torch.float32)))
    return tie.gather(tally.total()).cpu()


@torch.no_grad()
def fold(key: bytes, change: Tensor, width: int, *, start: int = 0) -> Tensor:
    """Return ``f[j] = sum_b D[start + b w + j] change[b w + j]``, int64 (width,).

    Args:
        key: of the signs D, such as ``key_of(seed, epoch)``.
        change: real numbers of any shape, taken row by row and as float32.
        width: w, 1 or more.
        start: the place of the first number among the signs.

    Returns:
        Ring units of 2^-32.

    Raises:
        ConfigError: ``width`` or ``start`` is out of range.
        ProtocolError: a number is not finite, or the sums would leave int64.
    """
    _check_width(width)
    line = change.reshape(-1)
    signs, tally = Signs(key, line.device), Tally(width, line.device)
    for span in spans(start, len(line), line.device):
        part = line[span.at : span.at + span.hi - span.lo].float()
        tally.add(_whole(signs.flip(part, span)), span.at)
    return tally.total().cpu()


@torch.no_grad()
def unfold(
    key: bytes, folded: Tensor, numel: int, scale: float, *, start: int = 0
) -> Tensor:
    """Return ``D tile(scale 2^-32 folded)``, float32 (numel,), on its device.

    The transpose of ``fold``, of the same ``key`` and ``start``; int64 (width,) in.

    Raises:
        ConfigError: ``folded`` is empty, or ``start`` is out of range.
        ProtocolError: a number to be laid out is not finite, or leaves float32.
    """
    width, device = len(folded), folded.device
    _check_width(width)
    made = torch.empty(numel, device=device)
    line = (folded.double() * (scale / ring.ONE)).float()
    if not bool(line.isfinite().all()):
        raise ProtocolError(f"folded numbers at scale {scale:g} leave float32")
    signs = Signs(key, device)
    for span in spans(start, numel, device):
        size, turn = span.hi - span.lo, span.at % width
        turns = -(-(turn + size) // width)
        tile = line.repeat(turns) if turns > 1 else line
        made[span.at : span.at + size] = signs.flip(tile[turn : turn + size], span)
    return made


def _check_width(width: int) -> None:
    if width < 1:
        raise ConfigError(f"fold to width {width}: take 1 or more")


def _whole(real: Tensor) -> Tensor:
    # exact: a power of two, and float32 holds what it rounds to
    return real.mul_(float(ring.ONE)).round_()


def _one_by_one(pool: Pool, change: Params, epoch: int, layout: Layout) -> Tensor:
    real = pool.kind == "gaussian"
    lines = sorted(lines_of(change).items())
    start = torch.empty(0, device=layout.device)
    whole = _whole(torch.cat([start, *(line.float() for _, line in lines)]))
    _check_reach(_reach(whole))
    whole = whole.long()
    contained(whole)
    whole = whole.double() if real else whole
    sums = torch.zeros(pool.size, dtype=whole.dtype)
    for k in range(pool.size):
        part = part_of(pool, k, epoch, layout.device)
        for span in spans(0, len(whole), layout.device):
            here = whole[span.at : span.at + span.hi - span.lo]
            sums[k] += (part(span).to(whole.dtype) * here).sum().cpu()
    if not real:
        return sums
    _check_reach(float(sums.abs().max()))
    return sums.round().long()


class Tally:
    """Whole numbers summed place by place, exactly, in any order.

    ``width`` places; a line that is longer than the places goes round them. Sums are
    made in int32 while they must fit, and carried over into int64 in time.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._near = torch.zeros(width, dtype=torch.int32, device=device)
        self._far = torch.zeros(width, dtype=torch.int64, device=device)
        self._bound, self._sum = 0.0, 0.0

    def add(self, whole: Tensor, at: int = 0) -> None:
        """Add ``whole``, float32 integers (m,), from place ``at`` on.

        Raises:
            ProtocolError: a number is not finite, or a sum may leave int64.
        """
        if not len(whole):
            return
        width = len(self._far)
        reach = _reach(whole) * -(-(at % width + len(whole)) // width)
        self._sum += reach
        _check_reach(self._sum)
        if reach >= NEAR:
            _go_round(self._far, whole.long(), at)
            return
        if self._bound + reach >= NEAR:
            self._carry()
        self._bound += reach
        _go_round(self._near, whole.int(), at)

    def total(self) -> Tensor:
        """Return the sums, int64 (width,)."""
        self._carry()
        return self._far

    def _carry(self) -> None:
        self._far += self._near
        self._near.zero_()
        self._bound = 0.0


def _check_reach(reach: float) -> None:
    if not reach < ROOM:  # NaN too
        raise ProtocolError("a change to project is not finite, or too large")


def _reach(whole: Tensor) -> float:
    if not len(whole):
        return 0.0
    low, high = (end.item() for end in torch.aminmax(whole))
    return float("nan") if math.isnan(low) else float(max(-low, high))


def _go_round(sums: Tensor, whole: Tensor, at: int) -> None:
    """Add ``whole[i]`` to ``sums[(at + i) % width]``, integers of one type."""
    width, first = len(sums), at % len(sums)
    if first + len(whole) <= width:
        sums[first : first + len(whole)].add_(whole)
        return
    begin = width - first
    turns = (len(whole) - begin) // width
    end = begin + turns * width
    sums[first:].add_(whole[:begin])
    sums.add_(whole[begin:end].view(turns, width).sum(0, dtype=sums.dtype))
    sums[: len(whole) - end].add_(whole[end:])
