"""What merging adapters loses, and how long it takes; a part of ``adapters``."""

from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from time import perf_counter

import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.strategy import Update
from sims.bench.frame import Options, Row, middle, versus
from strategies.merging.grades import halves_of
from strategies.merging.pairs import pairs_of
from strategies.merging.stack import Halves, Stack, singular, stacked
from strategies.merging.units import clustered

Way = Callable[[Halves, Sequence[Halves], Sequence[int]], Tensor]

PEERS, RANK, PASSES = 16, 8, 50


def lost_rows(updates: Sequence[Update], start: Params) -> Iterator[Row]:
    """Yield what each way of merging loses of the ``updates`` to ``start``."""
    fedavg = lost(updates, start, by_halves)
    work = f"{len(updates)} clients, {updates[0].metrics['steps']:.0f} batches each"
    for name, way in (("flora", by_product), ("lego", by_units)):
        ours = lost(updates, start, way)
        yield versus(f"{name} vs fedavg, lost in merging", work, ours, fedavg, "share")


def lost(updates: Sequence[Update], start: Params, way: Way) -> float:
    """Return how far ``way`` is from the mean product, over the size of its change."""
    off = change = 0.0
    counts = [u.examples for u in updates]
    for pair in pairs_of(start):
        now = halves_of(start, pair)
        adapters = [halves_of(u.payload, pair) for u in updates]
        mean = stacked(adapters, counts).product()
        off += float((way(now, adapters, counts) - mean).square().sum())
        change += float((mean - now[0] @ now[1]).square().sum())
    return sqrt(off / change)


def by_halves(now: Halves, adapters: Sequence[Halves], counts: Sequence[int]) -> Tensor:
    """Return the product of the mean halves, as FedAvg of adapters makes it."""
    up, down = (
        sum((h[i] * n for h, n in zip(adapters, counts, strict=True)), now[i] * 0)
        for i in (0, 1)
    )
    return up @ down / sum(counts) ** 2


def by_product(
    now: Halves, adapters: Sequence[Halves], counts: Sequence[int]
) -> Tensor:
    """Return the best of the rank of ``now``."""
    u, s, v = singular(stacked(adapters, counts))
    rank = len(now[1])
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def by_units(now: Halves, adapters: Sequence[Halves], counts: Sequence[int]) -> Tensor:
    """Return the sum of as many merged units as ``now`` has."""
    stack = stacked(adapters, counts)
    ups, downs = clustered(stack, len(now[1]), PASSES, reweight=True)
    return ups @ downs


def speed_row(options: Options) -> Row:
    """Return the row of singular values with and without the product of a stack."""
    side = 512 if options.quick else 2048
    g = torch.Generator().manual_seed(0)
    stack = Stack(
        torch.randn(side, PEERS * RANK, generator=g, dtype=torch.float64),
        torch.randn(PEERS * RANK, side, generator=g, dtype=torch.float64),
        torch.full((PEERS * RANK,), 1 / PEERS, dtype=torch.float64),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = middle([_seconds(lambda: singular(stack)) for _ in range(3)])
    other = _seconds(lambda: torch.linalg.svd(stack.product(), full_matrices=False))
    torch.set_num_threads(threads)
    work = f"{PEERS} adapters of rank {RANK} for a weight of {side} x {side}"
    told = "stacked vs multiplied out, singular values"
    return versus(told, work, ours * 1e3, other * 1e3, "ms", "one thread, float64")


def _seconds(job: Callable[[], object]) -> float:
    begin = perf_counter()
    job()
    return perf_counter() - begin
