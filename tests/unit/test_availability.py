import math
from itertools import islice, pairwise

import pytest

from fedcore.errors import ConfigError
from fedcore.strategy import peer_name
from sims.world.availability import AVAILABILITY, Always, Daily, Dropout, Markov, Trace
from sims.world.presence import Presence
from sims.world.site import Site

HOUR_S = 3600.0


def site(index: int, seed: int = 0) -> Site:
    return Site(peer_name(index), index, seed)


def test_always_is_one_endless_span():
    assert list(Always().spans(site(0))) == [(0.0, math.inf)]


def test_daily_hours_by_hand():
    spans = Daily(start_h=22.0, hours=8.0, spread_h=0.0).spans(site(0))
    assert list(islice(spans, 3)) == [
        (0.0, 6 * HOUR_S),  # the night that began before time 0
        (22 * HOUR_S, 30 * HOUR_S),
        (46 * HOUR_S, 54 * HOUR_S),
    ]


def test_daily_shifts_stay_within_the_spread():
    model = Daily(start_h=12.0, hours=1.0, spread_h=4.0)
    starts = {next(iter(model.spans(site(i))))[0] for i in range(200)}
    assert len(starts) == 200
    assert min(starts) >= 10 * HOUR_S
    assert max(starts) <= 14 * HOUR_S


@pytest.mark.parametrize("model", [Markov(30.0, 10.0), Daily(hours=5.0)])
def test_spans_ascend_and_do_not_touch(model):
    for i in range(20):
        spans = list(islice(model.spans(site(i)), 50))
        assert all(start < end for start, end in spans)
        assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_markov_peers_are_online_for_their_share_of_the_time():
    model, online = Markov(on_s=30.0, off_s=10.0), 0.0
    for i in range(300):
        for start, end in model.spans(site(i)):
            online += max(0.0, min(end, 400.0) - start)
            if end >= 400.0:
                break
    assert online / (300 * 400.0) == pytest.approx(0.75, abs=0.02)


def test_giving_up_has_its_probability_and_a_uniform_point():
    points = [Dropout(0.25).gives_up(site(i), 8.0) for i in range(2000)]
    gone = [p for p in points if p is not None]
    assert len(gone) / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(gone) / len(gone) == pytest.approx(0.5, abs=0.05)
    assert Dropout(0.0).gives_up(site(0), 8.0) is None
    assert Dropout(1.0).gives_up(site(0), 8.0) is not None


def test_a_trace_lists_hours_and_may_repeat(tmp_path):
    path = tmp_path / "hours.csv"
    path.write_text("index,start_s,end_s\n0,0,10\n0,20,30\n1,5,6\n")
    assert list(Trace(str(path)).spans(site(2))) == [(0.0, 10.0), (20.0, 30.0)]
    again = Trace(str(path), repeat_s=40.0).spans(site(1))
    assert list(islice(again, 3)) == [(5.0, 6.0), (45.0, 46.0), (85.0, 86.0)]


@pytest.mark.parametrize(
    ("rows", "repeat_s", "reason"),
    [
        ("0,5,5\n", 0.0, "empty"),
        ("0,0,10\n0,10,12\n", 0.0, "touches"),
        ("0,5,9\n0,1,2\n", 0.0, "must not fall"),
        ("0,0,10\n", 10.0, "repeat_s"),
        ("0,0,x\n", 0.0, "line 2"),
    ],
)
def test_bad_hours_are_refused(tmp_path, rows, repeat_s, reason):
    path = tmp_path / "hours.csv"
    path.write_text("index,start_s,end_s\n" + rows)
    with pytest.raises(ConfigError, match=reason):
        Trace(str(path), repeat_s)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Markov(on_s=0.0),
        lambda: Markov(off_s=math.inf),
        lambda: Markov(dropout=2.0),
        lambda: Daily(hours=24.0),
        lambda: Daily(start_h=-1.0),
        lambda: Dropout(-0.1),
        lambda: Dropout(math.nan),
    ],
)
def test_impossible_hours_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_presence_follows_the_spans_in_one_jump_or_many():
    model = Markov(on_s=7.0, off_s=5.0)
    sites = [site(i) for i in range(30)]
    jump, walk = Presence(model, sites), Presence(model, sites)
    list(jump.advance(100.0))
    for t in range(101):
        list(walk.advance(float(t)))
    for s in sites:
        want = any(a <= 100.0 < b for a, b in islice(model.spans(s), 60))
        assert jump.online(s.index) == walk.online(s.index) == want
    assert jump.change_s == walk.change_s > 100.0


def test_the_registry_names_every_model():
    assert sorted(AVAILABILITY) == ["always", "daily", "dropout", "markov", "trace"]
