"""The peers of the hierarchy benchmark do the same work, and rows say what they saw."""

import pytest

from sims.bench.carry import WAYS, Race
from sims.bench.hierarchy import gathered, tree_rows
from sims.bench.process import MissingError


@pytest.mark.slow
@pytest.mark.parametrize("work", ["add", "fold"])
def test_every_way_hands_its_updates_over(work):
    with Race(work, 1000) as ways:
        took = {way: ways.turn(way, 3) for way in WAYS}
    assert all(seconds > 0 for seconds in took.values())
    assert took.keys() == {"shared", "pickle", "tcp"}


@pytest.mark.slow
def test_coordinators_that_keep_and_that_sum_have_the_same_bits():
    flat, eager = gathered("flat", 4), gathered("eager", 4)
    assert flat.sha256 == eager.sha256
    with pytest.raises(MissingError, match="flat: "):
        gathered("flat", -1)


@pytest.mark.slow
def test_rows_of_trees_say_that_the_bits_are_the_same():
    rows = list(tree_rows(count=3, turns=1))
    assert len(rows) == 4
    assert all("same bits" in row.note for row in rows)
