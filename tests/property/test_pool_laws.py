"""Laws of pools: the fast forms are the obvious ones, and what is linear is linear."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedcore.params import digest
from fedcore.pool import (
    Pool,
    direction,
    expand,
    fold,
    key_of,
    project,
    reference,
    unfold,
    walk,
)
from fedcore.pool.stream import PATCH
from fedcore.ring import ONE
from fedcore.seeds import words

quick = settings(deadline=None, max_examples=12)
pools = st.builds(
    Pool,
    st.sampled_from([2, 8, 16, 32]),
    st.sampled_from(["hadamard", "hadamard", "hadamard", "signs"]),
    st.sampled_from(["tile", "shift", "flip"]),
    st.integers(0, 3),
)
shapes = st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=4)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


def numbers(count, *path):
    raw = torch.from_numpy((words(count, *path) >> 40).astype("int64"))
    return raw.double() / 2**23 - 1


@st.composite
def trees(draw):
    tree, seed = {}, draw(st.integers(0, 99))
    for i, shape in enumerate(draw(shapes)):
        t = numbers(torch.Size(shape).numel(), "tree", seed, i)
        tree[f"t{(7 * i) % 5}"] = t.view(shape).to(draw(dtypes))
    return tree


def lines(pool, epochs, seed):
    return (numbers(epochs * pool.size, "A", seed) * ONE).long().view(epochs, pool.size)


@quick
@given(pools, trees(), st.integers(0, 3), st.integers(0, 9))
def test_expand_is_the_obvious_sum(pool, base, epochs, seed):
    a = lines(pool, epochs, seed)
    fast = expand(pool, a, 0.01, base)
    assert list(fast) == list(base)
    assert digest(fast) == digest(reference.expand(pool, a, 0.01, base))


@quick
@given(pools, trees(), st.integers(0, 2))
@example(Pool(2), {"none": torch.zeros(0)}, 0)
def test_project_is_the_obvious_product(pool, change, epoch):
    fast = project(pool, change, epoch=epoch)
    assert torch.equal(fast, reference.project(pool, change, epoch=epoch))


@settings(deadline=None, max_examples=4)
@given(pools, st.integers(0, 3), st.integers(-9, 9), st.integers(1, 3))
def test_both_are_the_obvious_ones_across_patches(pool, k, off, size):
    numel = PATCH + off
    base = {"w": numbers(numel, "w").float()}
    a = torch.zeros(1, pool.size, dtype=torch.int64)
    a[0, 0], a[0, k % pool.size] = ONE, -3 * ONE
    w = expand(pool, a, 0.1, base)
    assert digest(w) == digest(reference.expand(pool, a, 0.1, base))
    z = reference.direction(pool, k % pool.size, size, start=numel - size)
    assert torch.equal(direction(pool, k % pool.size, size, start=numel - size), z)
    whole = (base["w"].double() * ONE).round().long()
    got = project(pool, base)[k % pool.size]
    assert got == (direction(pool, k % pool.size, numel).long() * whole).sum()


@quick
@given(pools, st.integers(1, 300), st.integers(0, 9))
def test_tensors_are_only_a_way_to_cut_the_vector(pool, cut, seed):
    line, a = numbers(301, "line", seed).float(), lines(pool, 2, seed)
    whole = expand(pool, a, 0.1, {"x": line})["x"]
    parts = expand(pool, a, 0.1, {"b": line[cut:], "a": line[:cut]})
    assert torch.equal(whole, torch.cat([parts["a"], parts["b"]]))


@quick
@given(pools, st.integers(1, 300), st.integers(0, 9))
def test_project_is_linear_on_the_ring(pool, numel, seed):
    u, v = numbers(numel, "u", seed).float(), numbers(numel, "v", seed).float()
    u, v = u - u % 2**-16, v - v % 2**-16  # so that float32 sums are exact
    both = project(pool, {"w": u + v})
    assert torch.equal(both, project(pool, {"w": u}) + project(pool, {"w": v}))


@quick
@given(pools, st.integers(1, 300), st.integers(0, 9), st.integers(0, 2))
def test_project_is_the_transpose_of_expand(pool, numel, seed, epoch):
    a = lines(pool, 1, seed)[0] // ONE  # small whole numbers
    a[seed % pool.size] += 3
    u = {"w": numbers(numel, "u", seed).float()}
    z = sum(
        int(n) * direction(pool, k, numel, epoch=epoch).double()
        for k, n in enumerate(a)
    )
    there = int((a * project(pool, u, epoch=epoch)).sum())
    assert there == int((z * (u["w"].double() * ONE)).sum())


@quick
@given(
    st.integers(0, 400), st.integers(1, 500), st.integers(0, 300), st.floats(1e-3, 1e6)
)
def test_fold_and_unfold_are_the_obvious_ones(numel, width, start, size):
    key, line = key_of(3, 1), (numbers(numel, "line") * size).float()
    folded = fold(key, line, width, start=start)
    assert torch.equal(folded, reference.fold(key, line, width, start=start))
    fast = unfold(key, folded, numel, 0.01, start=start)
    assert torch.equal(fast, reference.unfold(key, folded, numel, 0.01, start=start))


@quick
@given(
    pools,
    st.lists(st.tuples(st.integers(0, 31), st.integers(-ONE, ONE)), max_size=6),
    st.integers(0, 9),
)
def test_a_walk_stands_where_it_should(pool, moves, seed):
    base, a = {"w": numbers(70, "w", seed).float()}, lines(pool, 1, seed)
    target = {"w": torch.zeros(70)}
    trip = walk(pool, target, base, a, 0.01)
    for k, amount in moves:
        trip.move(k % pool.size, amount)
    line = a[0] + trip.coefficients
    trip.at(1, 1e-3)
    there = reference.moved(pool, line, 0.01, base["w"], (1, 1e-3))
    assert torch.equal(target["w"], there)
    trip.rest()
    assert torch.equal(target["w"], reference.expand(pool, line[None], 0.01, base)["w"])


@quick
@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 9))
def test_unfold_is_the_transpose_of_fold(numel, width, seed):
    key, u = key_of(seed), numbers(numel, "u", seed).float()
    v = torch.arange(width)
    there = int((fold(key, u, width) * v).sum())
    back = unfold(key, v * ONE, numel, 1.0).double()
    assert there == int((back * u.double() * ONE).sum())
