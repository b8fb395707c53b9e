"""Median, trimmed mean, Krum and geometric median, by hand and under attack."""

import pytest
import torch

from fedcore.errors import ConfigError, QuorumError
from fedcore.strategy import Update
from strategies.coordinatewise import CoordinateMedian, TrimmedMean
from strategies.distances import inner_products, squared_distances
from strategies.geometric_median import (
    GeometricMedian,
    closest_majority,
    weighted,
    weiszfeld,
)
from strategies.krum import Krum, MultiKrum, ranked
from strategies.ranks import middle_mean, network


def updates(*rows, examples=1):
    return [
        Update(f"p{i}", 0, {"w": torch.tensor(row)}, examples)
        for i, row in enumerate(rows)
    ]


def step(rules, us):
    """Return what ``rules`` adds to a model of zeros."""
    start = rules.init({k: torch.zeros_like(t) for k, t in us[0].payload.items()})
    return rules.apply(start, us).params["w"]


def test_median_of_three_and_of_four():
    three = updates([1.0, -5.0], [2.0, 7.0], [90.0, 6.0])
    assert step(CoordinateMedian(), three).tolist() == [2.0, 6.0]
    four = [*three, *updates([3.0, 0.0])]
    assert step(CoordinateMedian(), four).tolist() == [2.5, 3.0]


def test_median_of_one_and_of_two():
    assert step(CoordinateMedian(), updates([5.0])).tolist() == [5.0]
    assert step(CoordinateMedian(), updates([5.0], [7.0])).tolist() == [6.0]


def test_trimmed_mean_cuts_one_value_at_each_end():
    us = updates([1.0], [2.0], [6.0], [-100.0], [1000.0])
    assert step(TrimmedMean(attackers=1), us).tolist() == [3.0]
    assert step(TrimmedMean(attackers=2), us).tolist() == [2.0]


def test_trimmed_mean_of_no_attackers_is_the_mean():
    us = updates([1.0, 2.0], [3.0, 7.0])
    assert step(TrimmedMean(attackers=0), us).tolist() == [2.0, 4.5]


@pytest.mark.parametrize("rules", [CoordinateMedian(), TrimmedMean(), Krum()])
def test_a_claimed_weight_buys_nothing(rules):
    us = updates([1.0], [1.1], [1.2], [1.3], [1.4])
    lied = [*us[:4], Update("p4", 0, us[4].payload, 10**9)]
    assert torch.equal(step(rules, us), step(rules, lied))


@pytest.mark.parametrize("count", range(1, 34))
def test_network_ranks_as_sort_does(count):
    rows = torch.randn(count, 40, generator=torch.Generator().manual_seed(count))
    for cut in {0, (count - 1) // 3, (count - 1) // 2}:
        kept = rows.sort(dim=0).values[cut : count - cut]
        total = torch.zeros(40, dtype=torch.float64)
        for line in kept:
            total += line
        assert torch.equal(middle_mean(list(rows), cut), (total / len(kept)).float())


def test_network_sorts_every_pattern_of_zeros_and_ones():
    """Knuth's 0-1 principle: then it sorts everything."""
    for count in range(2, 10):
        patterns = torch.arange(2**count)[None, :] >> torch.arange(count)[:, None] & 1
        lines = list(patterns)
        for low, high in network(count, 0):
            a, b = lines[low], lines[high]
            lines[low], lines[high] = torch.minimum(a, b), torch.maximum(a, b)
        assert torch.equal(torch.stack(lines), patterns.sort(dim=0).values)


def test_middle_mean_spans_blocks_and_shapes():
    rows = torch.randn(5, 3, 9001, generator=torch.Generator().manual_seed(0))
    want = rows.sort(dim=0).values[2]
    assert torch.equal(middle_mean(list(rows), 2), want)


def test_squared_distances_by_hand():
    trees = [
        {"a": torch.tensor([0.0]), "b": torch.tensor([[0.0, 0.0]])},
        {"a": torch.tensor([1.0]), "b": torch.tensor([[2.0, 2.0]])},
        {"a": torch.tensor([0.0]), "b": torch.tensor([[0.0, -3.0]])},
    ]
    want = [[0.0, 9.0, 9.0], [9.0, 0.0, 30.0], [9.0, 30.0, 0.0]]
    assert squared_distances(trees).tolist() == want


def test_distances_leave_running_statistics_out():
    trees = [
        {"w": torch.tensor([x]), "norm.running_var": torch.tensor([1000.0 * x])}
        for x in (0.0, 1.0)
    ]
    assert squared_distances(trees)[0, 1].item() == 1.0


def test_krum_by_hand():
    """n = 5, f = 1: a score is the sum of the 2 least squared distances."""
    us = updates([0.0], [1.0], [3.0], [4.0], [100.0])
    # scores 1 + 9, 1 + 4, 1 + 4, 1 + 9, 96² + 97²; of equal ones the first wins
    assert ranked(us, 1) == [1, 2, 0, 3, 4]
    assert step(Krum(attackers=1), us).tolist() == [1.0]


def test_multi_krum_by_hand():
    us = updates([0.0], [1.0], [3.0], [4.0], [100.0])
    assert step(MultiKrum(attackers=1), us).tolist() == [2.0]  # keeps 5 - 1 - 2
    assert step(MultiKrum(attackers=1, keep=4), us).tolist() == [2.0]
    assert step(MultiKrum(attackers=1, keep=1), us).tolist() == [1.0]


def test_krum_takes_running_statistics_from_the_chosen_peer():
    us = updates([0.0], [1.0], [3.0])
    for u, mean in zip(us, (5.0, 6.0, 7.0), strict=True):
        u.payload["n.running_mean"] = torch.tensor([mean])
    rules = Krum(attackers=0)
    start = {"w": torch.zeros(1), "n.running_mean": torch.zeros(1)}
    after = rules.apply(rules.init(start), us)
    assert after.params["n.running_mean"].item() == 5.0


def test_geometric_median_of_a_triangle_sees_all_sides_at_120_degrees():
    """The Fermat point of (0, 0), (4, 0), (0, 3), by its closed form."""
    us = updates([0.0, 0.0], [4.0, 0.0], [0.0, 3.0])
    got = step(GeometricMedian(passes=200), us).double()
    pulls = [u.payload["w"].double() - got for u in us]
    pulls = [p / p.norm() for p in pulls]
    assert sum(pulls).norm() < 1e-5
    assert (pulls[0] @ pulls[1]).item() == pytest.approx(-0.5, abs=1e-5)


def test_geometric_median_on_a_line_is_the_median():
    us = updates([0.0], [1.0], [2.0], [50.0], [1e6])
    assert step(GeometricMedian(passes=100), us).item() == pytest.approx(2.0, abs=1e-3)


def test_geometric_median_of_equal_updates_is_their_value():
    us = updates(*[[0.5, -2.0]] * 4)
    assert step(GeometricMedian(), us).tolist() == [0.5, -2.0]


def test_stated_tolerance_of_the_geometric_median():
    """30 passes: sum of distances within 1e-6 of what 2000 passes reach."""
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        rows = torch.randn(11, 6, generator=g)
        rows[:4] += 20.0
        trees = [{"w": row} for row in rows]
        start = closest_majority(squared_distances(trees))
        products = inner_products(trees, start[0])

        def total(passes, rows=rows, products=products, start=start):
            shares = weiszfeld(products, start, 1e-6, passes).double()
            middle = shares @ rows.double() / shares.sum()
            return (rows - middle).norm(dim=1).sum().item()

        assert total(30) <= total(2000) * (1 + 1e-6)


def test_passes_over_products_are_passes_over_updates():
    """The reference: the paper's passes, on the updates themselves."""
    rows = torch.randn(7, 9, generator=torch.Generator().manual_seed(1)).double()
    trees = [{"w": row} for row in rows]
    estimate = rows[:4].mean(dim=0)
    for _ in range(5):
        pulls = 1 / (rows - estimate).norm(dim=1).clamp_min(1e-6)
        estimate = pulls @ rows / pulls.sum()
    shares = weiszfeld(inner_products(trees, 0), [0, 1, 2, 3], 1e-6, 5).tolist()
    got = weighted(trees, shares)["w"]
    torch.testing.assert_close(got, estimate.float(), rtol=1e-5, atol=1e-6)


def test_closest_majority_by_hand():
    trees = [{"w": torch.tensor([x])} for x in (9.0, 0.0, 1.0, 2.5, 100.0)]
    # third nearest, counting itself: 8, 2.5, 1.5, 2.5, 97.5, so around 1.0
    assert closest_majority(squared_distances(trees)) == [2, 1, 3]


@pytest.mark.parametrize("far", [1e3, 1e14, 1e30])
def test_one_giant_does_not_open_the_door_to_another_attacker(far):
    """Rounding next to a giant once hid five equal updates behind a sixth."""
    us = updates(*[[0.0, 0.0]] * 5, [0.0, far], [0.0, 1.0])
    assert step(GeometricMedian(), us).norm() < 1e-4


@pytest.mark.parametrize("far", [1e3, 1e14, 1e30])
def test_three_giants_of_seven_do_not_need_more_passes(far):
    us = updates([0.0], [0.1], [0.2], [0.3], [far], [far], [far])
    assert 0.0 <= step(GeometricMedian(), us).item() <= 0.31


@pytest.mark.parametrize(
    ("rules", "fewest"),
    [
        (TrimmedMean(attackers=2), 5),
        (Krum(attackers=2), 7),
        (MultiKrum(attackers=2), 7),
        (MultiKrum(attackers=1, keep=6), 7),
    ],
)
def test_too_few_updates_end_the_round_and_say_what_to_change(rules, fewest):
    rows = [[float(i)] for i in range(fewest)]
    assert rules.fewest == fewest
    step(rules, updates(*rows))
    with pytest.raises(QuorumError, match=f"quorum to {fewest}"):
        step(rules, updates(*rows[1:]))


@pytest.mark.parametrize("make", [TrimmedMean, Krum, MultiKrum])
def test_negative_counts_are_refused(make):
    with pytest.raises(ConfigError, match="attackers"):
        make(attackers=-1)


def test_impossible_smoothing_is_refused():
    with pytest.raises(ConfigError, match="smoothing"):
        GeometricMedian(smoothing=0.0)
    with pytest.raises(ConfigError, match="passes"):
        GeometricMedian(passes=0)
