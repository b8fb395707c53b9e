"""Charts as PNG files, drawn by matplotlib; imported only when files are wanted."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sims.report.chart import Bars, Chart, Heat, Lines, number
from sims.report.style import LIGHT

DOTS_PER_INCH = 120
DASHES = ("-", "--", ":")  # of lines, each for one turn through the colours


def png(chart: Chart) -> bytes:
    """Return ``chart`` as a PNG of 840 x 504 pixels."""
    figure = Figure(figsize=(7, 4.2), dpi=DOTS_PER_INCH)
    figure.subplots_adjust(0.12, 0.13, 0.97, 0.91)  # a layout engine draws it twice
    axes = figure.subplots()
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.set_xlabel(chart.x_label)
    axes.spines[["top", "right"]].set_visible(False)
    match chart:
        case Lines():
            _lines(axes, chart)
        case Bars():
            _bars(axes, chart)
        case Heat():
            _heat(figure, axes, chart)
    out = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib does not type this method
    canvas.print_png(out)
    return out.getvalue()


def _lines(axes: Axes, chart: Lines) -> None:
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v, chart.unit)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    colors = _colors(len(chart.series))
    for i, (color, line) in enumerate(zip(colors, chart.series, strict=True)):
        x = [p[0] for p in line.points]
        y = [p[1] for p in line.points]
        mark = "o" if len(x) <= 40 else None
        dash = DASHES[i // len(LIGHT) % len(DASHES)]
        axes.plot(x, y, dash, marker=mark, color=color, lw=2, ms=4, label=line.name)
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    if len(chart.series) > 1:
        _legend(axes, len(chart.series))


def _bars(axes: Axes, chart: Bars) -> None:
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    base = [0.0] * len(chart.labels)
    places = list(range(len(chart.labels)))
    colors = _colors(len(chart.stacks))
    for color, (name, values) in zip(colors, chart.stacks, strict=True):
        axes.bar(places, values, bottom=base, color=color, width=0.85, label=name)
        base = [b + v for b, v in zip(base, values, strict=True)]
    step = -(-len(places) // 14) or 1
    axes.set_xticks(places[::step], chart.labels[::step])
    if len(chart.stacks) > 1:
        _legend(axes, len(chart.stacks))


def _heat(figure: Figure, axes: Axes, chart: Heat) -> None:
    if not chart.rows or not chart.columns:
        return
    image = axes.imshow(chart.cells, aspect="auto", cmap="Blues", vmin=0)
    figure.colorbar(image, ax=axes, label="examples")
    step = -(-len(chart.rows) // 20)
    axes.set_yticks(range(0, len(chart.rows), step), chart.rows[::step], fontsize=7)
    step = -(-len(chart.columns) // 20)
    axes.set_xticks(range(0, len(chart.columns), step), chart.columns[::step])


def _legend(axes: Axes, names: int) -> None:
    """Name the colours in one line above the axes, or inside if they are many."""
    if names > 3:
        axes.legend(frameon=False, fontsize=8)
        return
    above = (1.0, 1.0)
    axes.legend(loc="lower right", bbox_to_anchor=above, ncols=names, frameon=False)


def _colors(count: int) -> list[str]:
    return [LIGHT[i % len(LIGHT)] for i in range(count)]
