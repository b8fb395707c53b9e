"""A walk of a model along the directions of a pool: what zeroth-order training does."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fedcore import ring
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.pool.expand import LARGEST, add, check, views, widened
from fedcore.pool.layout import Layout, lines_of
from fedcore.pool.pattern import ROOM, contained
from fedcore.pool.pool import Pool
from fedcore.pool.stream import PATCH
from fedcore.pool.sums import Sum, Woven, sum_of

KEPT = 1 << 23  # weights of a model whose signs are kept: 32 MB


class Walk(Protocol):
    """A model that is moved along directions; its own tensors are written in place.

    *Here* is kept in integers and made anew at every step, so nothing drifts: after
    ``rest`` the target is what ``expand`` gives for the coefficients moved to.
    """

    @property
    def coefficients(self) -> Tensor:
        """What ``move`` moved by since the start, int64 (K,)."""
        ...

    def at(self, k: int, eps: float) -> None:
        """Write ``here + eps * z_k`` into the target; one rounding in all."""

    def move(self, k: int, amount: int) -> None:
        """Let ``here += scale * amount * 2^-32 * z_k``; the target stays as it is."""

    def rest(self) -> None:
        """Write ``here`` into the target."""


@torch.no_grad()
def walk(
    pool: Pool,
    target: Mapping[str, Tensor],
    base: Params,
    coefficients: Tensor,
    scale: float,
) -> Walk:
    """Return the walk of ``target`` that starts at the expansion of ``coefficients``.

    Args:
        pool: the directions.
        target: contiguous tensors of the names and shapes of ``base``, such as the
            parameters of a model. Not written before ``at`` or ``rest``.
        base: w0; read at every step, so nobody may write to it meanwhile.
        coefficients: A, int64 (E, K), one epoch or more; steps go to the last one.
        scale: as of ``expand``.

    Returns:
        A walk. It keeps the expansion of all epochs but the last, if there are more
        than one: as many numbers as the model has, of float32 or more.

    Raises:
        ConfigError: ``target`` does not fit ``base``, or as ``expand``.
        ProtocolError: as ``expand``, or there is no epoch.
    """
    check(pool, coefficients, scale)
    if not len(coefficients):
        raise ProtocolError("a walk needs the coefficients of one epoch or more")
    shapes = {name: t.shape for name, t in base.items()}
    if shapes != {name: t.shape for name, t in target.items()}:
        raise ConfigError("the target of a walk has other names or shapes than w0")
    if not all(t.is_contiguous() for t in target.values()):
        raise ConfigError("the target of a walk must be contiguous: it is written to")
    return _Walk(pool, target, base, coefficients, scale)


class _Walk:
    def __init__(
        self,
        pool: Pool,
        target: Mapping[str, Tensor],
        base: Params,
        coefficients: Tensor,
        scale: float,
    ) -> None:
        past, last = coefficients[:-1], coefficients[-1]
        start = widened(pool, past, scale, base) if len(past) else base
        layout = Layout.of(base)
        self._scale, self._spans = scale, list(layout.walk())
        self._from = views(self._spans, lines_of(start))
        self._to = views(self._spans, lines_of(target))
        self._sum = sum_of(pool, last, len(past), layout)
        self._reach = contained(last)
        self._moved = [0] * pool.size
        small = layout.numel <= KEPT and layout.device.type == "cpu"
        lines = (*self._from, *self._to)
        plain = small and all(t.dtype == torch.float32 for t in lines)
        self._signs = self._signs_of(self._sum) if plain else []

    def _signs_of(self, total: Sum) -> list[tuple[Tensor, int]]:
        """Return the signs of every piece and where it begins in its patch."""
        if not isinstance(total, Woven) or any(s.hi > PATCH for s, _ in self._spans):
            return []
        return [
            (signs[piece.lo : piece.hi], span.lo + piece.lo)
            for span, pieces in self._spans
            for signs in [total.signs(span)]
            for piece in pieces
        ]

    @property
    def coefficients(self) -> Tensor:
        return torch.tensor(self._moved, dtype=torch.int64)

    @torch.no_grad()
    def at(self, k: int, eps: float) -> None:
        if not abs(eps) <= LARGEST:  # NaN too
            raise ConfigError(f"a step of {eps} along direction {k} leaves float32")
        self._write(k, eps)

    @torch.no_grad()
    def move(self, k: int, amount: int) -> None:
        reach = self._reach + abs(amount)
        if reach >= ROOM or reach * abs(self._scale) / ring.ONE > LARGEST:
            raise ProtocolError(f"moving by {amount} along direction {k} saturates")
        self._sum.add(k, amount)
        self._reach = reach
        self._moved[k] += amount

    @torch.no_grad()
    def rest(self) -> None:
        self._write()

    def _write(self, k: int = 0, eps: float = 0.0) -> None:
        if not (self._signs and isinstance(self._sum, Woven)):
            change = self._sum.change(self._scale, k, eps)
            return add(change, self._spans, self._from, self._to)
        # One pass. Whether multiply and add are fused is all the same: D is +1 or -1.
        tile = self._sum.tile(self._scale, k, eps)
        pairs = zip(self._signs, self._from, self._to, strict=True)
        for (signs, at), old, new in pairs:
            torch.addcmul(old, signs, tile[at : at + len(signs)], out=new)
        return None
