import math

import pytest

from fedcore.errors import ConfigError
from fedcore.strategy import peer_name
from sims.world.devices import DEVICES, Constant, Exponential, Listed, Normal, Trace
from sims.world.site import Site


def site(index: int, seed: int = 0) -> Site:
    return Site(peer_name(index), index, seed)


def test_a_constant_speed_is_the_same_for_all_peers_at_all_times():
    model = Constant(0.25)
    assert {model.step_s(site(i), 7.0 * i) for i in range(9)} == {0.25}


def test_a_draw_has_a_name_and_nothing_else_changes_it():
    model = Normal(2.0, spread=0.5)
    first = model.step_s(site(3), 10.0)
    assert model.step_s(site(4), 10.0) != first
    assert model.step_s(site(3, seed=1), 10.0) != first
    assert model.step_s(site(3), 99.0) == first  # a device keeps its speed


def test_normal_speeds_have_the_mean_and_spread_that_were_asked_for():
    drawn = [Normal(2.0, spread=0.2).step_s(site(i), 0.0) for i in range(2000)]
    mean = sum(drawn) / 2000
    sd = math.sqrt(sum((d - mean) ** 2 for d in drawn) / 2000)
    assert mean == pytest.approx(2.0, abs=4 * 0.4 / math.sqrt(2000))
    assert sd == pytest.approx(0.4, rel=0.1)


def test_wide_normal_speeds_never_reach_zero():
    drawn = [Normal(1.0, spread=3.0).step_s(site(i), 0.0) for i in range(300)]
    assert min(drawn) == 0.1


def test_exponential_speeds_have_the_mean_and_the_tail_of_their_law():
    drawn = [Exponential(2.0).step_s(site(i), 0.0) for i in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(2.0, rel=0.1)
    over = sum(d > 4.0 for d in drawn) / 2000  # P(X > 2 means) = exp(-2)
    assert over == pytest.approx(math.exp(-2), abs=0.03)


def test_jitter_changes_from_work_to_work_and_keeps_the_mean():
    model = Constant(1.0, jitter=0.3)
    drawn = [model.step_s(site(0), float(t)) for t in range(2000)]
    assert len(set(drawn)) > 1990
    assert sum(drawn) / 2000 == pytest.approx(1.0, abs=0.03)
    assert model.step_s(site(0), 5.0) == drawn[5]


def test_seconds_are_whole_microseconds():
    drawn = Exponential(1 / 3).step_s(site(5), 0.0)
    assert drawn == round(drawn, 6)


def test_listed_speeds_name_the_peer_that_is_missing():
    assert Listed({"a": 2.0}).step_s(Site("a", 0, 0), 0.0) == 2.0
    with pytest.raises(ConfigError, match="'b'"):
        Listed({"a": 2.0}).step_s(Site("b", 1, 0), 0.0)


def test_a_trace_gives_named_peers_their_rows_and_others_a_turn(tmp_path):
    path = tmp_path / "speeds.csv"
    path.write_text("peer,index,step_s\npeer-000002,,9.0\n,0,1.5\n,1,2.5\n")
    model = Trace(str(path))
    assert [model.step_s(site(i), 0.0) for i in (2, 0, 1, 3, 4)] == [9, 9, 1.5, 9, 1.5]


def test_a_trace_may_change_with_time(tmp_path):
    path = tmp_path / "speeds.json"
    path.write_text(
        '[{"index": 0, "step_s": 1, "time_s": 10},'
        ' {"index": 0, "step_s": 3, "time_s": 20}]'
    )
    model = Trace(str(path))
    speeds = [model.step_s(site(0), t) for t in (0.0, 10.0, 19.9, 20.0, 1e9)]
    assert speeds == [1.0, 1.0, 1.0, 3.0, 3.0]


BAD_TRACES = {
    "empty.csv": ("", "no rows"),
    "header.csv": ("index,step_s\n", "no rows"),
    "word.csv": ("index,step_s\n0,1.0\n1,fast\n", "line 3.*'fast'"),
    "zero.csv": ("index,step_s\n0,0\n", "line 2.*expected a number"),
    "nan.csv": ("index,step_s\n0,nan\n", "line 2"),
    "minus.csv": ("index,step_s\n0,-1\n", "line 2"),
    "huge.csv": ("index,step_s\n0,1e999\n", "line 2"),
    "short.csv": ("index,step_s\n0\n", "line 2 has 1 cells"),
    "long.csv": ("index,step_s\n0,1,2\n", "line 2 has 3 cells"),
    "twice.csv": ("index,index\n0,1\n", "line 1 names a column twice"),
    "nobody.csv": ("step_s\n1\n", "line 2 needs a name"),
    "negative.csv": ("index,step_s\n-1,1\n", "line 2 needs a name"),
    "column.csv": ("index,seconds\n0,1\n", "line 2: step_s"),
    "quote.csv": ('index,step_s\n0,"1\n', "line"),
    "back.csv": ("index,step_s,time_s\n0,1,5\n0,1,4\n", "must not fall"),
    "broken.json": ("[{\n", "line 2"),
    "number.json": ("7", "array"),
    "deep.json": ("[" * 100_000, "nested|line"),
    "item.json": ("[3]", "item 1"),
    "bool.json": ('[{"index": 0, "step_s": true}]', "item 1"),
    "list.json": ('[{"index": 0, "step_s": [1]}]', "item 1"),
    "flag.json": ('[{"index": true, "step_s": 1}]', "item 1 needs a name"),
}


@pytest.mark.parametrize("name", sorted(BAD_TRACES))
def test_damaged_traces_are_refused_with_the_line(tmp_path, name):
    text, reason = BAD_TRACES[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        Trace(str(path))


def test_a_missing_or_binary_trace_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        Trace(str(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match="cannot read"):
        Trace(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot read"):
        Trace("a\0b.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        Trace(str(tmp_path / "b.csv"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0),
        lambda: Constant(math.nan),
        lambda: Constant(math.inf),
        lambda: Constant(1.0, jitter=-0.1),
        lambda: Normal(1.0, spread=-1.0),
        lambda: Exponential(-2.0),
        lambda: Listed({"a": 0.0}),
    ],
)
def test_impossible_speeds_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_the_registry_names_every_model():
    assert sorted(DEVICES) == ["constant", "exponential", "normal", "trace"]
