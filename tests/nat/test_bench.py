"""The benchmark's own meeting, with real nodes."""

import pytest

from sims.bench.frame import Options
from sims.bench.nat import OURS, Town
from sims.natlab.lab import Lab

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]


def test_two_nodes_meet_through_the_relay_where_nothing_else_is_left(tmp_path):
    with Lab() as lab:
        met = Town(lab, tmp_path, Options()).meet(OURS, ("symmetric", "symmetric"))
    assert (met.way.split()[0], met.why) == ("relayed", "")
    assert met.took_s > 0
