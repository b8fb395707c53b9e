"""Data of the clustered benchmark: who knows what, and who says what to it."""

import numpy as np
import pytest

from clients.tasks.small import digits
from fedcore.errors import ConfigError
from sims.bench.camps import APART, OVERLAPPING, SWAPS, few, knowing, swapping
from sims.bench.clustering import Case, Setting, rand

DIGITS = digits()


@pytest.mark.parametrize("camps", [APART, OVERLAPPING])
def test_a_camp_holds_the_classes_it_knows_and_no_others(camps):
    data = knowing(DIGITS, camps, seed=0)
    for k, classes in enumerate(camps):
        for (_, y), groups in (
            (data.train, data.groups),
            (data.test, data.test_groups),
        ):
            assert set(y[groups == k].tolist()) == set(classes)
    shared = data.groups[data.train[1].numpy() == 3]
    if camps is OVERLAPPING:
        counts = np.bincount(shared)
        assert abs(int(counts[0]) - int(counts[1])) <= 1


def test_a_class_that_no_camp_knows_is_refused():
    with pytest.raises(ConfigError, match="no camp knows class 9"):
        knowing(DIGITS, [range(9)], seed=0)


def test_a_camp_swaps_its_two_classes_and_agrees_on_the_rest():
    data = swapping(DIGITS, SWAPS, seed=0)
    before, after = DIGITS.train[1].numpy(), data.train[1].numpy()
    for k, (a, b) in enumerate(SWAPS):
        mine = data.groups == k
        assert (after[mine & (before == a)] == b).all()
        assert (after[mine & (before == b)] == a).all()
        rest = mine & ~np.isin(before, (a, b))
        assert (after[rest] == before[rest]).all()


def test_few_keeps_rows_and_groups_together():
    whole = swapping(DIGITS, SWAPS, seed=0)
    data = few(whole, 10, seed=1)
    assert len(data.train[0]) == len(data.train[1]) == len(data.groups) == 10
    for x, y, group in zip(*data.train, data.groups, strict=True):
        same = (whole.train[0] == x).flatten(1).all(1).numpy()
        assert (whole.train[1].numpy()[same] == int(y)).any()
        assert (whole.groups[same] == group).any()


def test_peers_of_a_case_are_five_of_each_camp():
    case = Case(Setting("apart", lambda d, seed: knowing(d, APART, seed)), seed=0)
    held = [set(case.dataset.labels[t.rows].tolist()) for t in case.tasks.values()]
    assert held == [set(classes) for classes in APART for _ in range(5)]
    assert rand([0] * 5 + [1] * 5 + [2] * 5) == 1.0
    assert rand([0] * 15) == 0.0
