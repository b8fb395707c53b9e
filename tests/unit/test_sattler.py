"""Sattler's cut is the best one, and is made only where training has stalled."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError
from fedcore.strategy import Update
from strategies.clustered.angles import Angles
from strategies.clustered.sattler import SattlerCFL, bipartition, parted

START = {"w": torch.zeros(2)}
EAST, WEST, NORTH = (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)
TORN = {"a": EAST, "b": EAST, "c": WEST, "d": WEST}


def told(rules, state, moves):
    updates = [
        Update(p, state.version, {"w": torch.tensor(m)}, 1)
        for p, m in sorted(moves.items())
    ]
    return rules.apply(state, updates)


def rounds(rules, *each):
    state = rules.init(START)
    for moves in each:
        state = told(rules, state, moves)
    return state


def largest_across(angles, labels):
    return max(
        float(angles.similarity[i, j])
        for i, a in enumerate(labels)
        for j, b in enumerate(labels)
        if a != b
    )


rows = st.lists(
    st.tuples(*[st.integers(-5, 5)] * 3).filter(any), min_size=2, max_size=6
)


@given(rows)
@settings(deadline=None, max_examples=12)
def test_no_cut_has_a_smaller_largest_cosine_across_it(rows):
    """Against all cuts there are."""
    angles = Angles.of([torch.tensor(row, dtype=torch.float64) for row in rows])
    every = (c for c in product([0, 1], repeat=len(rows)) if len(set(c)) == 2)
    best = min(largest_across(angles, cut) for cut in every)
    cut = bipartition(angles)
    assert len(set(cut)) == 2
    assert largest_across(angles, cut) == best
    assert parted(angles, cut) == pytest.approx(((1 - best) / 2) ** 0.5)


def test_a_cluster_at_rest_is_cut_where_its_members_pull_apart():
    """The mean is 0, and each member's difference is 1 long."""
    rules = SattlerCFL(still=0.1, moving=0.9, cooldown=1)
    state = rounds(rules, TORN, TORN)
    assert [state.cluster_of(p) for p in "abcd"] == [1, 1, 2, 2]
    assert state.divided == 1
    assert rules.work(state, "c").params["w"].tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("why", "changed", "moves"),
    [
        ("the model still moves", {}, {**TORN, "d": NORTH}),
        ("nobody moves", {"moving": 1.1}, TORN),
        ("it is too young", {"cooldown": 2}, TORN),
        ("the cut is too close", {"gamma": 0.999999}, TORN),
        ("two stay together", {}, {"a": EAST, "c": WEST}),
    ],
)
def test_and_not_otherwise(why, changed, moves):
    settings = {"still": 0.1, "moving": 0.9, "cooldown": 1, **changed}
    if "gamma" in changed:
        moves = {"a": EAST, "b": EAST, "c": (-1.0, 0.1), "d": (-1.0, -0.1)}
    state = rounds(SattlerCFL(**settings), moves, moves)
    assert len(state.clusters) == 1, why


def test_parts_are_cut_again_and_a_newcomer_walks_down_the_tree():
    """First east from west, then up from down; each cut is one probe for a newcomer."""
    rules = SattlerCFL(still=0.2, moving=0.5, gamma=0.5, cooldown=1)
    up, down = (0.1, 1.0), (0.1, -1.0)
    four = {"a": up, "b": up, "c": down, "d": down, "w": WEST, "x": WEST, "y": WEST}
    wide = {p: EAST if p in "abcd" else m for p, m in four.items()}
    wide |= dict.fromkeys("wxy", (-4 / 3, 0.0))
    state = rounds(rules, wide, wide)
    assert [state.cluster_of(p) for p in "abcdwxy"] == [1, 1, 1, 1, 2, 2, 2]
    state = told(rules, state, four)
    assert [state.cluster_of(p) for p in "abcdwxy"] == [3, 3, 4, 4, 2, 2, 2]
    state = told(rules, state, {"new": EAST})
    assert state.cluster_of("new") == 1
    assert rules.work(state, "new").hints == {"cluster": 1, "probe": 1}
    state = told(rules, state, {"new": down})
    assert state.cluster_of("new") == 4
    assert state.known(4) == ["c", "d"]  # a probe tells nothing about its model
    assert told(rules, state, {"new": down}).known(4) == ["c", "d", "new"]


def test_settings_out_of_range_are_refused():
    for wrong in ({"still": 0.0}, {"gamma": 1.0}, {"cooldown": 0}):
        with pytest.raises(ConfigError, match="must be"):
            SattlerCFL(**wrong)
