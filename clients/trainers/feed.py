"""Batches for the fused path: of one peer, or of many side by side.

Short batches are filled up to the batch size with rows that count nothing, so that
all batches of a peer have one shape. The rows of peers that share a data set are
copied out of it together, straight to where the first layer reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clients.trainers.layers import beside, room, settled
from clients.trainers.plan import Plan
from fedcore.strategy import PeerId, Work
from fedcore.task import Task, seed_for, steps_of

Examples = tuple[Tensor, Tensor]  # x (b, ...) float32 and y (b,) int64
Rows = npt.NDArray[np.int64]  # row numbers, (b,)
Fed = tuple[Tensor, Tensor, Tensor | None]  # x (m, b, ...), y (m, 1, b), share


@dataclass(frozen=True, slots=True)
class Entry:
    """One peer's training, ready to run.

    Attributes:
        rows: rows of a full batch; shorter ones are filled up to it.
        pool: all examples of the peer's data set, if it has one; then ``batches``
            yields row numbers of it, otherwise pairs (x, y).
    """

    task: Task
    work: Work
    peer: PeerId
    steps: int
    rows: int
    pool: Examples | None
    batches: Iterator[Any]


def entry(task: Task, work: Work, peer: PeerId, plan: Plan) -> Entry | None:
    """Return the training ready to run, or None if its data need autograd.

    A task with the attributes ``dataset``, whose ``train`` is a pair (x, y), and
    ``orders(seed)``, the row numbers of each of ``batches(seed)``, is fed faster.
    """
    seed, steps = seed_for("batches", peer, work), steps_of(task, work)
    orders = getattr(task, "orders", None)
    pool = getattr(getattr(task, "dataset", None), "train", None) if orders else None
    batches = orders(seed) if orders and pool else task.batches(seed)
    first = next(batches)
    if not (plan.fits(work.params) and _plain(pool or first, plan)):
        return None
    rows = len(first) if pool else first[1].shape[0]
    items = islice(chain([first], batches), steps)
    return Entry(task, work, peer, steps, rows, pool, items)


def _plain(examples: Any, plan: Plan) -> bool:
    """Whether ``examples`` are float32 inputs with class numbers, on the CPU."""
    if not (isinstance(examples, tuple) and len(examples) == 2):
        return False
    x, y = examples
    numbers = x.dtype is torch.float32 and y.dtype is torch.int64 and not x.is_cuda
    return numbers and y.ndim == 1 and x.ndim >= 2 and plan.dims in (None, x.ndim)


class Feed:
    """Draws the next batches of some entries; all with one ``rows`` and ``pool``."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._rows, self._pool = entries[0].rows, entries[0].pool
        self._x = torch.empty(0)

    def batch(self, active: int) -> Fed:
        """Return the next batches of the first ``active`` entries.

        Returns:
            Inputs (m, b, ...), class numbers (m, 1, b), and how much each row counts
            (m, 1, b), times 1 / b; None if all count 1.
        """
        items = [next(e.batches) for e in self._entries[:active]]
        if self._pool is not None:
            return self._gathered(items, *self._pool)
        share = _share([y.shape[0] for _, y in items], self._rows)
        if share is not None:
            items = [_filled(x, y, self._rows) for x, y in items]
        xs, ys = zip(*items, strict=True)
        return _side_by_side(xs), torch.stack(ys).unsqueeze(1), share

    def _gathered(self, items: Sequence[Rows], x: Tensor, y: Tensor) -> Fed:
        m, b = len(items), self._rows
        share = _share([len(rows) for rows in items], b)
        if share is not None:  # any row will do: it counts nothing
            items = [np.resize(rows, b) for rows in items]
        index = torch.from_numpy(np.concatenate(items))
        if self._x.shape[0] != m:
            self._x = room(m, b, *x.shape[1:])
        if self._x.is_contiguous():
            torch.index_select(x, 0, index, out=self._x.view(m * b, *x.shape[1:]))
        else:
            for own, rows in zip(self._x, torch.split(index, b), strict=True):
                torch.index_select(x, 0, rows, out=own)
        return self._x, y.index_select(0, index).view(m, 1, b), share


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return ``parts`` as one tensor, (m, ...), without a copy if there is one."""
    alone = parts[0].unsqueeze(0)
    ready = len(parts) == 1 and alone.is_contiguous() and settled(alone)
    return alone if ready else beside(parts)


def _filled(x: Tensor, y: Tensor, rows: int) -> Examples:
    """Return the batch with rows of zeros added, up to ``rows``."""
    more = rows - y.shape[0]
    x = torch.cat([x, x.new_zeros(more, *x.shape[1:])])
    return x, torch.cat([y, y.new_zeros(more)])


def _share(counts: Sequence[int], rows: int) -> Tensor | None:
    """Return what each row counts when only the first ``counts`` of each are real."""
    if min(counts) == rows:
        return None
    share = torch.zeros(len(counts), 1, rows)
    for own, count in zip(share, counts, strict=True):
        own[:, :count] = rows / count
    return share
