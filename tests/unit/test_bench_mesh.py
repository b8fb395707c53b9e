"""The benchmark of the mesh: parts, in time, told by the right measure."""

from importlib.util import find_spec

import pytest

from sims.bench import mesh, mesh_caps, mesh_gather, mesh_rivals
from sims.bench.frame import Options, versus
from sims.bench.mesh_gather import Gathered
from sims.bench.mesh_rivals import RIVALS, Seen

pytest.importorskip("libp2p")


def row(name):
    return versus(name, "work", 1.0, 2.0, "s")


def test_parts_are_modules_of_ours():
    assert all(find_spec(module) for module in mesh.PARTS.values())


def test_without_time_nothing_is_begun_and_that_is_told():
    def begun():
        raise AssertionError("begun")
        yield row("never")

    [told] = mesh._in_time("caps", begun(), 0.0)
    assert told.name == "caps: what is missing"
    assert "no time left" in told.note
    assert list(mesh._in_time("caps", iter([row("a")]), float("inf"))) == [row("a")]


def test_what_is_not_installed_is_skipped_with_the_line_that_gets_it():
    [told] = mesh._rows("relays", "sims.bench.of_nobody", Options())
    assert told.ratio is None
    assert "pip install 'fedcore[mesh]'" in told.note


def seen(cpu_s, trip_ms):
    """Return what was seen: a first turn that does not count, then two."""
    made = Seen(lambda: None, list, lambda: (0.0, 0.0))
    made.cpu_s = [99.0, *cpu_s]
    made.trips_ms = [99.0] * mesh_rivals.ECHOES + [trip_ms] * 3
    return made


def test_rivals_are_compared_without_the_first_turn():
    hivemind, lattica = RIVALS
    ours, others = seen([2.0, 2.0], 0.5), {"hivemind": seen([8.0, 4.0], 0.25)}
    bulk, small = mesh_rivals._rows_of(hivemind, ours, others, {})
    assert (bulk.ours, bulk.other, bulk.ratio) == (2, 6, 3)
    assert bulk.note.startswith("500 against 167 MB per CPU-second")
    assert (small.ours, small.other, small.ratio) == (0.5, 0.25, 0.5)
    [gone] = mesh_rivals._rows_of(lattica, ours, others, {"lattica": "not here"})
    assert gone.note == "skipped: not here"


def test_the_figure_shows_the_spread_of_all():
    made = seen([1.0], 1.0)
    made.trips_ms += [4.0]
    chart = mesh_rivals.chart({"fedcore": made, "hivemind": seen([1.0], 2.0)})
    ours, theirs = chart.series
    assert (ours.points[0], ours.points[-1]) == ((0, 0.001), (99, 0.004))
    assert {y for _, y in theirs.points} == {0.002}


def test_the_busier_end_counts():
    used = iter([(1.0, 1.0), (1.2, 1.5)])
    one = Seen(lambda: None, lambda: [0.002], lambda: next(used))
    one.turn()
    assert one.cpu_s == [pytest.approx(1000 * 0.5 / mesh_rivals.SIZE_MB)]
    assert one.trips_ms == [2.0]


def test_whole_nodes_are_told_by_medians(monkeypatch):
    monkeypatch.setattr(mesh_gather, "copied_s", lambda size_mb, times: 0.5 * times)
    took = [Gathered(2.0, whole_s, 1.0, 3.0) for whole_s in (4.0, 9.0, 3.0)]
    joined, shared = mesh_gather._compared(3, 100, took)
    assert (joined.ours, joined.other, joined.ratio) == (4, 2, 0.5)
    assert joined.note.startswith("2.0 s after the last program")
    assert (shared.ours, shared.other) == (3, 1)
    assert shared.note.startswith("1.0 s of ours")


@pytest.mark.slow
def test_rivals_that_are_missing_are_told_how_to_get():
    rows = list(mesh_rivals.rows(Options(quick=True)))
    gone = [r for r in rows if r.ratio is None]
    assert all("pip install" in r.note and "--peer-python" in r.note for r in gone)
    assert {r.name for r in rows} == {"channel vs hivemind", "channel vs lattica"}


@pytest.mark.slow
def test_caps_of_both_directions_are_measured(monkeypatch):
    monkeypatch.setattr(mesh_caps, "GIVEN_MB", 12)
    for found in mesh_caps.rows(Options(quick=True)):
        assert found.ours < 50  # machines stall; a cap that is ignored is off by 1000
        assert found.other == mesh_caps.PROMISED


@pytest.mark.slow
def test_relays_and_openings_are_compared_in_one_run(monkeypatch):
    from sims.bench import mesh_opening, mesh_relay

    monkeypatch.setattr(mesh_relay, "SPLICED_MB", 20)
    monkeypatch.setattr(mesh_relay, "CIRCUIT_MB", 1)
    options = Options(quick=True)
    bulk, small = mesh_relay.rows(options)
    assert bulk.unit == "relay CPU-s/GB"
    assert bulk.ratio > 3
    assert small.ours > 0 < small.other
    rows = list(mesh_opening.rows(options))
    assert len({r.name for r in rows}) == 4
    assert all(r.ours > 0 < r.other for r in rows)
