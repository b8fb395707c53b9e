"""Charts as inline SVG: no script, no font, no request; colours follow the page."""

from html import escape

from sims.report.chart import Bars, Chart, Heat, Lines, number, ticks
from sims.report.style import style

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
SHOWN_LABELS = 14  # on an x axis


def svg(chart: Chart) -> str:
    """Return ``chart`` as one ``<svg>`` element, coloured by the page's style sheet."""
    match chart:
        case Lines():
            body = _lines(chart)
        case Bars():
            body = _bars(chart)
        case Heat():
            body = _heat(chart)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}">{body}</svg>'
    )


def alone(chart: Lines) -> str:
    """Return ``chart`` as an SVG file of its own, with its style and a legend."""
    height = 20 * len(chart.series)
    keys = "".join(
        f'<rect class="f{i % 6}" x="{LEFT}" y="{HEIGHT + 20 * i}" width="10" '
        f'height="10"/>{_text(LEFT + 16, HEIGHT + 20 * i + 10, line.name, "start")}'
        for i, line in enumerate(chart.series)
    )
    inner = svg(chart).partition(">")[2].removesuffix("</svg>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
        f'{HEIGHT + height}"><style>svg{{font-family:sans-serif;background:'
        f"var(--page)}}{style()}</style>{inner}{keys}</svg>\n"
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(marks: list[float], unit: str = "") -> str:
    """Return horizontal rules at ``marks`` with their values."""
    low, high = marks[0], marks[-1]
    rules = []
    for mark in marks:
        y = _y((mark - low) / (high - low))
        rules.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        rules.append(_text(LEFT - 8, y + 4, number(mark, unit), "end"))
    return "".join(rules)


def _x_label(text: str) -> str:
    return _text(_x(0.5), HEIGHT - 6, text)


def _lines(chart: Lines) -> str:
    points = [p for line in chart.series for p in line.points]
    if not points:
        return _text(WIDTH / 2, HEIGHT / 2, "not measured in this run")
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    heights = [y for _, y in points]
    least = 0.0 if chart.from_zero else min(heights)
    marks = ticks(least, max(heights) if any(heights) else 1.0)
    low, high = marks[0], marks[-1]
    span = (x_high - x_low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return _x((x - x_low) / span), _y((y - low) / (high - low))

    parts = [_grid(marks, chart.unit), _x_label(chart.x_label)]
    whole = sorted({round(m) for m in ticks(x_low, x_high)})
    for mark in [m for m in whole if x_low <= m <= x_high]:
        parts.append(_text(place(mark, low)[0], HEIGHT - BOTTOM + 16, number(mark)))
    for index, line in enumerate(chart.series):
        spots = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline class="line {_kind(index)}" points="{path}"/>')
        parts += [
            f'<circle class="dot f{index % 6}" cx="{sx:.1f}" cy="{sy:.1f}" r="3">'
            f"<title>{escape(line.name)}, {escape(chart.x_label)} {number(x)}: "
            f"{number(y, chart.unit)}</title></circle>"
            for (sx, sy), (x, y) in zip(spots, line.points, strict=True)
        ]
    return "".join(parts)


def _kind(index: int) -> str:
    """Return the classes of line ``index``: six colours, then the same in dashes."""
    return f"c{index % 6} d{index // 6 % 3}"


def _bars(chart: Bars) -> str:
    count = len(chart.labels)
    heights = [
        sum(values) for values in zip(*(v for _, v in chart.stacks), strict=True)
    ]
    if not count or not max(heights):
        return _text(WIDTH / 2, HEIGHT / 2, "nothing to show")
    marks = ticks(0, max(heights))
    top = marks[-1]
    slot = (WIDTH - LEFT - RIGHT) / count
    width = max(slot - 2, slot * 0.6)  # a gap of two pixels where there is room
    parts = [_grid(marks), _x_label(chart.x_label)]
    for i, label in enumerate(chart.labels):
        x, base = LEFT + i * slot, 0.0
        if i % -(-count // SHOWN_LABELS) == 0:
            parts.append(_text(x + slot / 2, HEIGHT - BOTTOM + 16, label))
        for index, (name, values) in enumerate(chart.stacks):
            if not values[i]:
                continue
            y0, y1 = _y(base / top), _y((base + values[i]) / top)
            base += values[i]
            parts.append(
                f'<rect class="f{index % 6}" x="{x + (slot - width) / 2:.1f}" '
                f'y="{y1:.1f}" width="{width:.1f}" height="{max(y0 - y1, 0.5):.1f}">'
                f"<title>{escape(label)}, {escape(name)}: {number(values[i])}</title>"
                "</rect>"
            )
    return "".join(parts)


def _heat(chart: Heat) -> str:
    if not chart.rows or not chart.columns:
        return _text(WIDTH / 2, HEIGHT / 2, "nothing to show")
    most = max(max(row) for row in chart.cells) or 1.0
    slot_x = (WIDTH - LEFT - RIGHT) / len(chart.columns)
    slot_y = (HEIGHT - TOP - BOTTOM) / len(chart.rows)
    parts = [_x_label(chart.x_label)]
    for j, column in enumerate(chart.columns):
        if j % -(-len(chart.columns) // SHOWN_LABELS) == 0:
            x = LEFT + (j + 0.5) * slot_x
            parts.append(_text(x, HEIGHT - BOTTOM + 16, column))
    for i, (name, row) in enumerate(zip(chart.rows, chart.cells, strict=True)):
        y = TOP + i * slot_y
        if i % -(-len(chart.rows) // SHOWN_LABELS) == 0:
            parts.append(_text(LEFT - 6, y + slot_y / 2 + 4, name, "end"))
        parts += [
            f'<rect class="f0" x="{LEFT + j * slot_x:.1f}" y="{y:.1f}" '
            f'width="{max(slot_x - 1, 0.5):.1f}" height="{max(slot_y - 1, 0.5):.1f}" '
            f'fill-opacity="{0.06 + 0.94 * value / most:.2f}">'
            f"<title>{escape(name)}, {escape(chart.columns[j])}: {number(value)}"
            "</title></rect>"
            for j, value in enumerate(row)
        ]
    return "".join(parts)
