"""Figures of a benchmark, next to the page that shows its rows."""

from pathlib import Path

from sims.bench.frame import Options
from sims.report.chart import Lines
from sims.report.svg import alone


def draw(options: Options, chart: Lines) -> Path | None:
    """Write ``chart`` as ``<slug>.svg`` where figures go, if they are wanted."""
    if options.figures is None:
        return None
    options.figures.mkdir(parents=True, exist_ok=True)
    path = options.figures / f"{chart.slug}.svg"
    path.write_text(alone(chart), encoding="utf-8")
    return path
