from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fedcore.metrics import Row
from sims.report.chart import Bars, Heat, Line, Lines, histogram, number, ticks
from sims.report.figures import png
from sims.report.page import folded, page, table
from sims.report.story import charts_of, comparison, short
from sims.report.svg import svg

ROW = Row(
    1, 2, 40, 0.5, 0.5, 1, {"nan": 1}, 3, 100, 50, 2.0, 0.25, "ab", ("peer-000001",)
)
LABELS = {f"peer-{i:06d}": {"0": i, "1": 3} for i in range(3)}


def run(rounds: int) -> list[Row]:
    return [
        replace(ROW, round=i, clock_s=2.0 * i, eval={"loss": 1 / i, "accuracy": 0.5})
        for i in range(1, rounds + 1)
    ]


def tags(text: str, tag: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(text)
    return [e for e in root.iter() if e.tag == tag]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9753, "%", "97.53 %"),
        (1_234_567, "bytes", "1.23 MB"),
        (999, "bytes", "999 B"),
        (0.35, "s", "350 ms"),
        (12.5, "s", "12.5 s"),
        (0.0, "s", "0 s"),
        (150.0, "s", "150 s"),
        (15_000.0, "s", "4.17 h"),
        (101770, "", "102 k"),
        (0.31234, "", "0.3123"),
    ],
)
def test_numbers_for_people(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.13, 0.87, [0, 0.2, 0.4, 0.6, 0.8, 1.0])],
)
def test_ticks_are_round_and_cover(low: float, high: float, marks: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(marks)


@pytest.mark.parametrize("value", [0.0, -3.0, 5.0, 1e-9])
def test_ticks_of_a_flat_line_surround_it(value: float) -> None:
    marks = ticks(value, value)
    assert marks[0] < value < marks[-1]


def test_lines_leave_out_what_was_not_measured_and_keep_the_last_point() -> None:
    line = Line.of("x", [(1, None), (2, float("nan")), (3, 1.0)])
    assert line.points == ((3, 1.0),)
    long = Line.of("x", [(i, float(i)) for i in range(1000)])
    assert len(long.points) <= 201
    assert long.points[-1] == (999, 999.0)


def test_a_line_chart_puts_each_point_where_it_belongs() -> None:
    chart = Lines("s", "T", "", "round", "", (Line("a", ((0, 0.0), (10, 10.0))),))
    (line,) = tags(svg(chart), "polyline")
    assert line.get("points") == "64.0,256.0 544.0,14.0"


def test_bars_are_as_high_as_their_values() -> None:
    chart = Bars("s", "T", "", "x", ("a", "b"), (("n", (5.0, 10.0)), ("m", (5.0, 0.0))))
    heights = [float(r.get("height", 0)) for r in tags(svg(chart), "rect")]
    assert heights == pytest.approx([121, 121, 242], abs=0.1)


def test_a_heat_table_has_a_cell_for_every_number() -> None:
    chart = Heat("s", "T", "", "x", ("p", "q"), ("0", "1"), ((0, 4), (2, 1)))
    shades = [r.get("fill-opacity") for r in tags(svg(chart), "rect")]
    assert shades == ["0.06", "1.00", "0.53", "0.29"]


def test_names_from_outside_cannot_write_markup() -> None:
    evil = "<script>alert(1)</script>"
    chart = Bars("s", evil, evil, evil, (evil,), ((evil, (1.0,)), ("b", (2.0,))))
    text = page(evil, evil, {evil: evil}, [chart], [table(evil, [evil], [[evil]])])
    assert "<script" not in text + folded(evil, evil)


@pytest.mark.parametrize("rounds", [0, 1, 3, 500])
def test_a_run_of_any_length_gets_all_charts(rounds: int) -> None:
    charts = charts_of(run(rounds), LABELS)
    assert len({c.slug for c in charts}) >= 8
    text = page("T", "", {}, charts)
    assert text.count("<svg") == len(charts)
    assert len(text) < 1_000_000
    for name in ("http://", "https://", "src=", "url(", "@import"):
        assert name not in text


def test_bytes_add_up() -> None:
    (down, up) = next(c for c in charts_of(run(3), {}) if c.slug == "bytes").series  # type: ignore[union-attr]
    assert [y for _, y in down.points] == [100, 200, 300]
    assert [y for _, y in up.points] == [50, 100, 150]


def test_clock_shows_differences() -> None:
    chart = next(c for c in charts_of(run(3), {}) if c.slug == "clock")
    assert isinstance(chart, Lines)
    assert [y for _, y in chart.series[0].points] == [2.0, 2.0, 2.0]


def test_many_clients_become_a_histogram() -> None:
    rows = [replace(ROW, peers=tuple(f"peer-{i:06d}" for i in range(100)))] * 2
    chart = next(c for c in charts_of(rows, {}) if c.slug == "participation")
    assert isinstance(chart, Bars)
    assert chart.labels == ("2",)
    assert chart.stacks[0][1] == (100.0,)


def test_clients_that_never_answered_are_shown_too() -> None:
    rows = [replace(ROW, peers=("peer-000001",))] * 2
    few = next(c for c in charts_of(rows, LABELS, 3) if c.slug == "participation")
    assert isinstance(few, Bars)
    assert few.labels == ("0", "1", "2")
    assert few.stacks[0][1] == (0.0, 2.0, 0.0)
    many = next(c for c in charts_of(rows, LABELS, 100) if c.slug == "participation")
    assert isinstance(many, Bars)
    assert many.labels == ("0", "1", "2")
    assert many.stacks[0][1] == (99.0, 0.0, 1.0)


def test_a_loss_that_nobody_told_has_no_line() -> None:
    rows = [replace(row, train_loss=None) for row in run(3)]
    chart = next(c for c in charts_of(rows, {}) if c.slug == "loss")
    assert isinstance(chart, Lines)
    assert [line.name for line in chart.series] == ["held-out"]


def test_histogram_ranges() -> None:
    names, counts = histogram([0, 1, 2, 3, 9], bins=5)
    assert names == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert counts == [2, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("peer", "text"), [("peer-000012", "12"), ("alice", "alice"), ("x" * 20, "x" * 8)]
)
def test_short_names(peer: str, text: str) -> None:
    assert short(peer) == text


def pictures() -> Sequence[Lines | Bars | Heat]:
    charts = {c.slug: c for c in charts_of(run(3), LABELS)}
    return [charts["loss"], charts["answers"], charts["labels"]]


def test_png_files_are_png() -> None:
    for chart in pictures():
        assert png(chart).startswith(b"\x89PNG\r\n")


def test_runs_are_compared_line_by_line() -> None:
    charts = comparison({"one": run(3), "two": run(5)})
    assert [line.name for line in charts[0].series] == ["one", "two"]
    assert [len(line.points) for line in charts[0].series] == [3, 5]
