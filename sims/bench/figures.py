"""Figures of a benchmark, next to the page that shows its rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sims.bench.frame import Options
from sims.report.chart import Line, Lines
from sims.report.svg import alone

Points = Sequence[tuple[float, float | None]]


def seconds_chart(
    slug: str, title: str, note: str, x_label: str, lines: Mapping[str, Points]
) -> Lines:
    """Return a chart of seconds, from 0, a line for each of ``lines`` by its name."""
    series = tuple(Line.of(name, points) for name, points in lines.items())
    return Lines(slug, title, note, x_label, "s", series, from_zero=True)


def draw(options: Options, chart: Lines) -> Path | None:
    """Write ``chart`` as ``<slug>.svg`` where figures go, if they are wanted."""
    if options.figures is None:
        return None
    options.figures.mkdir(parents=True, exist_ok=True)
    path = options.figures / f"{chart.slug}.svg"
    path.write_text(alone(chart), encoding="utf-8")
    return path
