from dataclasses import replace
from math import inf

import pytest
import torch

from fedcore.errors import ProtocolError
from fedcore.params import digest
from fedcore.partial import Partial, mean_of, merged, summed
from fedcore.ring import LIMIT, ONE
from fedcore.strategy import Update


def update(values, examples=1, *, peer="p", version=0, dtype=torch.float32):
    return Update(peer, version, {"w": torch.tensor(values, dtype=dtype)}, examples)


def test_the_mean_is_weighted_by_examples():
    mean = mean_of([update([1.0, 0.0], 1), update([4.0, 2.0], 2)])["w"]
    assert mean.tolist() == [3.0, torch.tensor(4 / 3).item()]
    assert mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_averaged_at_full_precision(dtype):
    # 1 + 1/64 is not a bfloat16 sum's neighbour: adding in the short type loses it.
    updates = [update([1.0], dtype=dtype), *[update([2**-10], dtype=dtype)] * 3]
    got = mean_of(updates)["w"]
    assert got.dtype == torch.float32
    assert got.item() == (1 + 3 * 2**-10) / 4


def test_merged_stands_for_all():
    one, two = update([1.0], 3, version=4), update([-2.0], 2, version=7)
    both = merged([one, two], peer="tree")
    assert (both.peer, both.version, both.examples) == ("tree", 7, 5)
    assert both.payload["w"].tolist() == [-ONE]
    assert torch.equal(mean_of([both])["w"], mean_of([one, two])["w"])


def test_nothing_given_is_written_to_and_nothing_given_away_changes():
    first, second = merged([update([1.0])]), update([2.0])
    partial = Partial()
    partial.add(first)
    early = partial.update()
    partial.add(second)
    partial.merge(partial_of(first))
    assert first.payload["w"].tolist() == [ONE]
    assert early.payload["w"].tolist() == [ONE]
    assert partial.update().payload["w"].tolist() == [4 * ONE]
    assert second.payload["w"].tolist() == [2.0]


def partial_of(*updates):
    partial = Partial()
    for u in updates:
        partial.add(u)
    return partial


BIG = LIMIT - 64  # three of these leave int64


def test_a_sum_out_of_range_is_refused_as_one_update_but_has_a_mean():
    partial = partial_of(*[update([BIG, 1.0])] * 3)
    with pytest.raises(ProtocolError, match="sum of w leaves"):
        partial.update()
    assert partial.mean()["w"].tolist() == [BIG, 1.0]
    assert mean_of([update([-BIG])] * 5)["w"].tolist() == [-BIG]


def test_a_sum_that_only_wraps_on_the_way_is_not_refused():
    ups, downs = [update([BIG])] * 5, [update([-BIG])] * 4
    assert merged(ups + downs).payload["w"].tolist() == [int(BIG) * ONE]
    far, back = partial_of(*ups), partial_of(*downs)
    far.merge(back)
    assert far.update().payload["w"].tolist() == [int(BIG) * ONE]


def test_the_lowest_integer_is_counted_right():
    low = Update("p", 0, {"w": torch.tensor([-(2**63)])}, 1)
    twice = partial_of(low, low)
    assert twice.mean()["w"].tolist() == [-(2.0**31)]
    with pytest.raises(ProtocolError, match="leaves"):
        twice.update()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (update([1.0], 0), "weight 0"),
        (update([1.0], -3), "weight -3"),
        (update([float("nan")]), "weight 1"),
        (update([LIMIT]), "weight 1"),
        (update([1.0, 2.0]), "'w'"),
        (Update("p", 0, {"v": torch.ones(1)}, 1), "'v'"),
        (Update("p", 0, {}, 1), "'w'"),
    ],
)
def test_a_bad_update_is_refused_whole(bad, words):
    partial = partial_of(update([5.0]))
    with pytest.raises(ProtocolError, match=words):
        partial.add(bad)
    assert partial.mean()["w"].tolist() == [5.0]


def test_one_bad_tensor_adds_none_of_its_update():
    tree = {"a": torch.ones(1), "b": torch.ones(1)}
    partial = partial_of(Update("p", 0, tree, 1))
    with pytest.raises(ProtocolError):
        partial.add(Update("q", 0, {**tree, "b": torch.full((1,), LIMIT)}, 1))
    assert partial.update().payload["a"].tolist() == [ONE]


def test_trees_of_other_shapes_do_not_merge():
    with pytest.raises(ProtocolError, match="'w'"):
        partial_of(update([1.0])).merge(partial_of(update([1.0, 2.0])))


def test_an_empty_sum_merges_and_has_no_mean():
    partial = Partial()
    partial.merge(partial_of(update([3.0], 2)))
    partial.merge(Partial())
    assert partial.mean()["w"].tolist() == [3.0]
    for empty in (Partial().mean, Partial().update, lambda: mean_of([])):
        with pytest.raises(ProtocolError, match="no updates"):
            empty()


def test_small_updates_summed_as_one_matrix_have_the_bits_of_one_by_one():
    g = torch.Generator().manual_seed(3)
    updates = [
        Update(
            f"p{i}",
            i,
            {
                "a": torch.randn(7, 11, generator=g) * 10.0 ** (i % 9 - 4),
                "b": torch.randn((), generator=g),
                "c": torch.randn(0, 3, generator=g),
            },
            1 + 37 * i,
        )
        for i in range(300)
    ]
    fast, slow = summed(updates), summed(iter(updates))
    assert (fast.examples, fast.version) == (slow.examples, slow.version)
    for name, s in slow.sums.items():
        assert torch.equal(fast.sums[name].total, s.total)
        assert fast.sums[name].total.shape == s.total.shape
    fast.add(updates[0])  # goes on like any other sum
    slow.add(updates[0])
    assert digest(fast.mean()) == digest(slow.mean())


def test_small_updates_that_could_wrap_are_summed_one_by_one():
    big = Update("p", 0, {"a": torch.full((2,), 2.0**29)}, 1)
    whole = summed([big] * 10)
    assert whole.sums["a"].wraps is not None
    assert whole.mean()["a"].tolist() == [2.0**29] * 2


def test_a_small_update_out_of_range_is_refused():
    good = Update("p", 0, {"a": torch.ones(2)}, 1)
    with pytest.raises(ProtocolError, match="leaves"):
        summed([good, replace(good, payload={"a": torch.tensor([0.0, inf])})])
