"""Placement by hand-computed numbers, and its laws."""

from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError
from fedcore.hierarchy.plan import best_fit, inputs, placed, widths

loads = st.dictionaries(
    st.sampled_from([f"p{i}" for i in range(12)]), st.floats(0, 1), max_size=12
)
nodes = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 4), min_size=1)


def left(places, loads, capacities):
    """Return the room that is left on every node."""
    found = dict(capacities)
    for peer, node in places.items():
        found[node] -= loads[peer]
    return found


def test_best_fit_takes_the_tightest_node_that_has_room():
    assert best_fit(2.0, {"a": 5.0, "b": 2.0, "c": 3.0}) == "b"
    assert best_fit(2.5, {"a": 5.0, "b": 2.0, "c": 3.0}) == "c"
    assert best_fit(5.5, {"a": 5.0, "b": 2.0}) is None
    assert best_fit(1.0, {"b": 2.0, "a": 2.0}) == "a"  # ties by name


def test_peers_fill_few_nodes_heaviest_first():
    # 0.6 -> a (1.0 < 2.0), 0.5 -> b, 0.4 -> a (0.4 left), 0.3 -> b
    loads = {"p1": 0.3, "p2": 0.6, "p3": 0.5, "p4": 0.4}
    capacities = {"a": 1.0, "b": 2.0}
    places = placed(loads, capacities)
    assert places == {"p1": "b", "p2": "a", "p3": "b", "p4": "a"}
    assert left(places, loads, capacities) == pytest.approx({"a": 0.0, "b": 1.2})


def test_one_node_is_enough_where_one_is():
    loads = {f"p{i}": 0.1 for i in range(10)}
    assert set(placed(loads, {"a": 1.0, "b": 1.0}).values()) == {"a"}


def test_what_fits_nowhere_goes_where_most_room_is():
    loads = {"p1": 3.0, "p2": 1.0, "p3": 1.0}
    places = placed(loads, {"a": 1.0, "b": 2.0})
    assert places == {"p1": "b", "p2": "a", "p3": "a"}
    assert left(places, loads, {"a": 1.0, "b": 2.0}) == {"a": -1.0, "b": -1.0}


@given(loads, nodes)
@settings(deadline=None, max_examples=60)
def test_every_peer_has_a_place_and_none_is_above_capacity_without_need(loads, nodes):
    places = placed(loads, nodes)
    assert places.keys() == loads.keys()
    spare = left(places, loads, nodes)
    for node in [n for n, room in spare.items() if room < -1e-6]:
        last = min(loads[p] for p in places if places[p] == node)
        others = [room for n, room in spare.items() if n != node]
        assert all(room < last + 1e-6 for room in others)  # it fitted nowhere else


def test_the_shape_of_a_tree():
    assert widths(1, 2) == (1,)
    assert widths(5, 2) == (5, 3, 2, 1)
    assert widths(9, 3) == (9, 3, 1)
    assert [inputs((5, 3, 2, 1), 2, 1, i) for i in range(3)] == [2, 2, 1]
    for wrong in [(0, 2), (3, 1)]:
        with pytest.raises(ConfigError, match="at least 1 leaf"):
            widths(*wrong)


def test_numbers_that_cannot_be_are_refused_by_name():
    for x in (-1.0, nan, inf):
        with pytest.raises(ConfigError, match="the load of p1"):
            placed({"p1": x}, {"a": 1.0})
    with pytest.raises(ConfigError, match="no node"):
        placed({"p1": 1.0}, {})
