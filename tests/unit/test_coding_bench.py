"""Delays, and the figures that the benchmark of coding prints."""

import numpy as np
import pytest

from fedcore.errors import ConfigError
from fedcore.strategy import peer_name
from sims.bench.coding import Decoded, crossing_rows
from sims.bench.delays import PUBLISHED, Cloud, drawn, facts_of, from_csv
from sims.bench.federations import config_of
from sims.bench.schemes import GC, OURS, SR, UNCODED, Best, M, crossing, job_s, table
from sims.world.site import Site
from strategies.coding.schedules import Multiplexed, Once


def test_drawn_delays_agree_with_what_is_published():
    for seed in range(3):
        facts = facts_of(drawn(90, seed=seed))
        assert facts.median_s == pytest.approx(PUBLISHED.median_s, rel=0.01)
        assert facts.p99_s == pytest.approx(PUBLISHED.p99_s, rel=0.03)
        assert facts.single == pytest.approx(PUBLISHED.single, abs=0.03)
        assert (facts.fewest, facts.most) >= (PUBLISHED.fewest, 30)
        assert facts.most <= PUBLISHED.most


def test_facts_by_hand():
    """Worker 2 straggles in rounds 0 and 1, worker 1 in round 1."""
    facts = facts_of(np.array([[1.0, 1.0, 3.0], [1.0, 2.5, 4.0], [1.0, 1.0, 2.0]]))
    assert (facts.fewest, facts.most, facts.single) == (0, 2, 0.5)
    assert facts.median_s == 1.0


def test_delays_of_a_federation_follow_the_same_law():
    sites = [Site(peer_name(i), i, 0) for i in range(400)]
    delays = [2 * Cloud().pipe(site, 7.0).latency_s for site in sites]
    assert np.median(delays) == pytest.approx(PUBLISHED.median_s, rel=0.02)
    assert 0.03 < np.mean([d > 1.0 for d in delays]) < 0.12
    assert Cloud().pipe(sites[0], 7.0) == Cloud().pipe(sites[0], 7.0)


def test_measured_delays_are_read(tmp_path):
    path = tmp_path / "delays.csv"
    path.write_text("0.5,1,2\n\n0.25,0.5,0.75\n")
    assert from_csv(path).tolist() == [[0.5, 1.0, 2.0], [0.25, 0.5, 0.75]]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "one delay for every worker"),
        ("1,2\n3\n", "one delay for every worker"),
        ("1,a\n", "could not convert"),
        ("1,-2\n", "above 0"),
        ("1,nan\n", "finite"),
    ],
)
def test_what_is_no_table_of_delays_is_refused(tmp_path, text, cause):
    path = tmp_path / "delays.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=cause):
        from_csv(path)
    with pytest.raises(ConfigError, match="No such file"):
        from_csv(tmp_path / "none.csv")


def test_seconds_a_job_by_hand():
    """Two workers, load 1/2 or 1, computing a whole job costs 2 s."""
    delays = np.array([[1.0, 4.0], [1.0, 1.0]])
    assert job_s(Once(2, 0), delays, 2.0, 1.0) == (5.0 + 2.0) / 2
    assert job_s(Once(2, 1), delays, 2.0, 0.0) == 3.0
    late = Multiplexed(2, 1, 2, 2)  # load 1: one job of delay 1 in two rounds
    assert job_s(late, delays, 2.0, 0.0) == 3.0 + 3.0


def test_where_curves_cross():
    assert crossing([0, 2, 4], [3, 2, 0], [1, 1, 1]) == 3.0
    assert crossing([0, 2, 4], [0, 0, 0], [1, 1, 1]) == 0
    assert crossing([0, 2, 4], [0, 0, 2], [1, 1, 1]) is None


def test_every_scheme_has_its_best_and_no_code_is_quicker_than_none_without_delay():
    delays = np.full((6, 8), 1.0)
    found = table(delays, 4.0, quick=True)
    assert found.keys() == {UNCODED, GC, SR, M, GC + OURS, SR + OURS, M + OURS}
    assert all(found[UNCODED].job_s <= best.job_s for best in found.values())
    assert found[GC].told == "s 3, μ 1, load 0.5000"
    assert isinstance(found[GC], Best)
    rows = list(crossing_rows([0.0, 4.0], {0.0: found, 4.0: found}))
    assert {row.ratio for row in rows} == {None}


def test_decoding_is_measured_against_the_true_sum():
    good = Decoded.of(16, 3, "grouped", patterns=2)
    assert 0 < good.error < 1e-6
    assert Decoded.of(16, 3, "random", patterns=2).error > good.error


def test_federations_differ_by_their_scheme_alone():
    config = config_of(["strategy=m-sgc", "strategy.models=1"], 1.2, 3)
    assert (config.strategy.batches, config.run.seed) == (12, 3)
    assert config.devices.mean_s == pytest.approx(0.1)
    assert config.network == Cloud()
