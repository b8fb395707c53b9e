"""Laws of merging adapters, for any sizes, ranks and weights."""

from itertools import product as every_choice

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.merging.stack import (
    Stack,
    completed,
    moved_stack,
    refactored,
    singular,
    stacked,
)
from strategies.merging.units import clustered

SOME = settings(deadline=None, max_examples=20)


def product(halves):
    return halves[0] @ halves[1]


def drawn(out, width, rank, seed):
    g = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=g, dtype=torch.float64)
    return up, torch.randn(rank, width, generator=g, dtype=torch.float64)


@st.composite
def rounds(draw):
    """Return the form of a weight, adapters for it of any ranks, and their weights."""
    out, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ranks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    seed = draw(st.integers(0, 1000))
    counts = draw(st.lists(st.integers(1, 99), min_size=5, max_size=5))
    adapters = [drawn(out, width, r, seed + i) for i, r in enumerate(ranks)]
    return adapters, counts[: len(ranks)]


def mean_of(adapters, counts):
    return sum(n * product(a) for a, n in zip(adapters, counts, strict=True)) / sum(
        counts
    )


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@given(rounds())
@SOME
def test_a_stack_is_the_mean_of_the_products(case):
    close(stacked(*case).product(), mean_of(*case))


@given(rounds(), st.floats(0.1, 2))
@SOME
def test_moving_is_the_mean_change_of_the_units_given(case, server_lr):
    adapters, counts = case
    out, width = adapters[0][0].shape[0], adapters[0][1].shape[1]
    now = drawn(out, width, 4, 77)
    change = mean_of(
        [
            (torch.cat([b, -now[0][:, : len(a)]], 1), torch.cat([a, now[1][: len(a)]]))
            for b, a in adapters
        ],
        counts,
    )
    close(
        moved_stack(now, adapters, counts, server_lr).product(),
        product(now) + server_lr * change,
    )


@given(rounds())
@SOME
def test_the_short_way_to_singular_values_is_the_long_way(case):
    stack = stacked(*case)
    u, s, v = singular(stack)
    close(torch.linalg.svdvals(stack.product())[: len(s)], s)
    close((u * s) @ v, stack.product())


@given(rounds(), st.randoms(use_true_random=False))
@SOME
def test_the_order_of_peers_does_not_matter(case, order):
    adapters, counts = case
    rows = order.sample(range(len(counts)), len(counts))
    mixed = [adapters[i] for i in rows], [counts[i] for i in rows]
    now = drawn(adapters[0][0].shape[0], adapters[0][1].shape[1], 20, 77)
    for merged in (
        lambda c: product(refactored(stacked(*c), now)),
        lambda c: product(clustered(stacked(*c), 3, 50, reweight=True)),
    ):
        close(merged(case), merged(mixed))


@given(rounds(), st.booleans())
@SOME
def test_merging_copies_of_one_adapter_gives_it_back(case, reweight):
    (one, *_), counts = case
    rank = len(one[1])
    copies = stacked([one] * len(counts), counts)
    close(product(refactored(copies, one)), product(one))
    close(product(clustered(copies, rank, 50, reweight=reweight)), product(one))


@given(rounds(), st.booleans())
@SOME
def test_as_many_clusters_as_units_are_exact(case, reweight):
    stack = stacked(*case)
    count = len(stack.mass)
    merged = clustered(stack, count, 50, reweight=reweight)
    close(product(merged), stack.product())


@given(rounds(), st.randoms(use_true_random=False))
@SOME
def test_what_a_unit_is_called_does_not_matter(case, order):
    """(b, a), (-b, -a) and (2 b, a / 2) are one unit."""
    stack = stacked(*case)
    scales = [order.choice([-4.0, -1.0, 0.5, 2.0]) for _ in stack.mass]
    c = torch.tensor(scales, dtype=torch.float64)
    same = Stack(stack.ups * c, stack.downs / c[:, None], stack.mass)
    for count in (1, 2, 3):
        close(
            product(clustered(stack, count, 50, reweight=True)),
            product(clustered(same, count, 50, reweight=True)),
        )


@given(rounds(), st.integers(1, 4))
@SOME
def test_clusters_are_few_and_keep_their_size(case, count):
    stack = stacked(*case)
    ups, downs = clustered(stack, count, 50, reweight=True)
    sizes = stack.ups.norm(dim=0) * stack.downs.norm(dim=1)
    close((ups.norm(dim=0) * downs.norm(dim=1)).sum(), (sizes * stack.mass).sum())
    assert len(downs) <= count


@given(st.integers(0, 5), st.integers(1, 8), st.integers(1, 5), st.integers(0, 99))
@SOME
def test_completed_rows_are_orthonormal_as_far_as_there_is_room(k, width, rank, seed):
    k = min(k, rank, width)
    rows = torch.linalg.qr(drawn(width, 1, k, seed)[0])[0].T  # (k, width)
    for old in (drawn(1, width, rank, seed)[1], torch.zeros(rank, width).double()):
        found = completed(rows, old)
        close(found @ found.T, torch.diag((torch.arange(rank) < width).double()))
        close(found[:k], rows)


def test_nor_does_it_where_a_unit_is_as_close_to_a_centre_as_its_opposite():
    """Numbers are such units: (1, 1) and (1, -1) are at right angles."""
    ups = torch.tensor([[0.3923, -0.2236, -0.3195, -1.2050, 0.8033]]).double()
    downs = torch.tensor([[1.0445, -0.6332, 0.5731, 0.5409, 0.1748]]).double().T
    mass = torch.ones(5).double()
    want = product(clustered(Stack(ups, downs, mass), 1, 50, reweight=True))
    for called in every_choice([-1.0, 2.0], repeat=5):
        c = torch.tensor(called).double()
        same = Stack(ups * c, downs / c[:, None], mass)
        close(product(clustered(same, 1, 50, reweight=True)), want)


def test_units_of_zeros_merge_to_nothing():
    zeros = torch.zeros(3, 2).double(), torch.ones(2, 4).double()
    ups, downs = clustered(stacked([zeros], [1]), 2, 50, reweight=True)
    assert (ups.shape, downs.shape) == ((3, 0), (0, 4))
    up, down = refactored(stacked([zeros], [1]), zeros)
    assert not up.any()
    assert down.norm() > 1
