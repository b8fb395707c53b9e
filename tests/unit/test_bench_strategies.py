"""The benchmark of strategies: curves of real runs, tuned alike, every strategy in."""

import pytest

from fedcore.config import from_flags
from sims.bench.frame import Options
from sims.bench.scenes import ENTRIES, RIVALS, SCENES, Entry, Scene
from sims.bench.strategies import (
    BASE,
    Seen,
    ending,
    error,
    figure,
    middle_curve,
    row_of,
    settings_of,
    strategy_of,
    trial_of,
)
from sims.bench.watch import Point, Trial, at_best, curve, curves, seeded
from sims.runs.config import configured
from strategies import STRATEGIES

TINY = ("task.name=digits", "run.clients=4", "run.rounds=5", "trainer.lr=0.3")


def test_every_strategy_has_a_scene():
    assert {BASE, *map(strategy_of, ENTRIES)} == set(STRATEGIES)
    assert {strategy_of(name) for name in ENTRIES} <= set(ENTRIES)  # has a figure
    assert {entry.scene for entry in ENTRIES.values()} == set(SCENES)
    assert {entry.rival for entry in ENTRIES.values()} == set(RIVALS)


@pytest.mark.parametrize("name", ENTRIES)
def test_who_tunes_a_gain_meets_a_rival_that_does_too(name):
    """Or a longer step of the server would pass for a better rule."""

    def tunes(entry):
        words = {word.partition("=")[0] for flags in entry.grid for word in flags}
        return bool(words & {"strategy.server_lr", "strategy.gain"})

    if tunes(ENTRIES[name]):
        assert tunes(RIVALS[ENTRIES[name].rival])


@pytest.mark.parametrize("name", ENTRIES)
def test_every_setting_of_a_scene_is_one_that_the_run_takes(name):
    entry = ENTRIES[name]
    scene, rival = SCENES[entry.scene], RIVALS[entry.rival]
    for who, how in ((name, entry), (entry.rival, rival)):
        for more in settings_of(scene, how):
            configured(from_flags(trial_of(scene, who, how, more).flags))


def test_a_curve_has_a_point_every_so_many_rounds_and_the_last_one():
    points = curve(Trial(TINY, every=2))
    assert [p.round for p in points] == [2, 4, 5]
    assert points[-1].accuracy > points[0].accuracy > 0.2
    assert points[-1].own == 0.0


def test_a_curve_ends_at_the_horizon():
    points = curve(Trial((*TINY, "strategy.steps=5"), horizon_s=12.0))
    assert [p.clock_s for p in points] == [5.0, 10.0, 15.0]


def test_clients_own_accuracy_is_measured_where_asked():
    flags = (*TINY, "partition=concepts", "partition.concepts=2")
    last = curve(Trial(flags, every=5, own=True))[-1]
    assert 0 < last.worst <= last.own < 1


def test_two_liars_spoil_fedavg():
    trial = Trial((*TINY[:1], "run.clients=10", *TINY[2:]), every=5)
    lied = Trial(trial.flags, 5, wrap="two liars")
    assert curve(lied)[-1].accuracy < curve(trial)[-1].accuracy - 0.3


def test_processes_change_nothing():
    trials = [seeded(Trial(TINY, every=5), seed) for seed in (1, 2)]
    assert curves(trials, 2) == curves(trials, 1) == [curve(t) for t in trials]
    assert curve(trials[0]) != curve(trials[1])


def test_the_best_setting_is_the_one_with_the_best_median():
    grid = [Trial((*TINY[:3], f"trainer.lr={lr}"), every=5) for lr in (1e-4, 0.3)]
    assert at_best(grid, lambda c: c[-1].accuracy, (0, 1), 1) == grid[1]


SCENE = Scene("some problem", ("a=1",), rates=(0.1, 0.2))


def made(*accuracies):
    return tuple(
        Point(i + 1, 10.0 * (i + 1), a, a / 2) for i, a in enumerate(accuracies)
    )


def test_the_grid_is_every_rate_with_every_setting():
    entry = Entry("x", [("b=1",), ("b=2",)])
    assert settings_of(SCENE, entry) == [
        ("trainer.lr=0.1", "b=1"),
        ("trainer.lr=0.1", "b=2"),
        ("trainer.lr=0.2", "b=1"),
        ("trainer.lr=0.2", "b=2"),
    ]
    assert settings_of(SCENE, Entry("x")) == [("trainer.lr=0.1",), ("trainer.lr=0.2",)]


def test_an_error_is_that_of_the_last_eighth_and_1_without_any():
    assert error(SCENE, made(0.5, 0.75)) == 0.25
    assert error(SCENE, ()) == 1.0
    assert error(Scene("own", (), own=True), made(0.5)) == 0.75
    assert error(SCENE, made(*[0.0] * 6, 0.25, 0.75)) == 0.5  # rounds 7 and 8


def test_the_last_eighth_goes_by_the_clock_where_a_horizon_ends_the_run():
    points = (Point(1, 80.0, 0.1), Point(9, 87.0, 0.2), Point(10, 100.0, 0.3))
    assert [p.round for p in ending(SCENE, points)] == [9, 10]
    timed = Scene("timed", (), horizon_s=100.0)
    assert [p.round for p in ending(timed, points)] == [10]


def test_curves_meet_at_their_median():
    three = [made(0.1, 0.5), made(0.2, 0.6), made(0.9, 0.7, 0.8)]
    assert middle_curve(SCENE, three) == [(1.0, 0.2), (2.0, 0.6)]
    by_time = middle_curve(Scene("timed", (), horizon_s=40.0), three)
    assert by_time[9] == (9.0, 0.0)
    assert by_time[10] == (10.0, 0.2)
    assert by_time[-1] == (40.0, 0.6)


def test_a_row_says_who_won_and_with_what(monkeypatch):
    monkeypatch.setattr("sims.bench.strategies.SCENES", {"x": SCENE})
    base = Seen(
        Trial(("strategy.name=fedavg", "a=1", "trainer.lr=0.1")), [made(0.5)] * 3
    )
    ours = Seen(
        Trial(("strategy.name=new", "a=1", "trainer.lr=0.2")),
        [made(0.75), made(0.75), made(0.25)],
    )
    row = row_of("new", Entry("x"), base, ours)
    assert (row.ours, row.other, row.ratio) == (0.25, 0.5, 2.0)
    assert "better in 2 of 3 seeds" in row.note
    assert "set: trainer.lr=0.2; rival: trainer.lr=0.1" in row.note
    chart = figure("new", Entry("x"), base, ours)
    assert [line.points for line in chart.series] == [((1.0, 0.5),), ((1.0, 0.75),)]


@pytest.mark.slow
def test_a_quick_benchmark_prints_a_row_for_each_strategy_it_takes(tmp_path):
    from sims.bench.strategies import BENCH, QUICK

    rows = list(BENCH.rows(Options(quick=True, figures=tmp_path)))
    assert [row.name for row in rows] == [
        f"{n} vs {ENTRIES[n].rival}" for n in ENTRIES if n in QUICK
    ]
    assert len(list(tmp_path.glob("strategies-*.svg"))) == len(rows)
