"""Charts as plain data; ``svg`` and ``figures`` draw the same ones.

Every number that reaches a chart is finite: what could not be measured is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

Points = tuple[tuple[float, float], ...]

MOST_POINTS = 200  # of a line: more cannot be seen, and the page stays small


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve."""

    name: str
    points: Points

    @classmethod
    def of(cls, name: str, pairs: Iterable[tuple[float, float | None]]) -> "Line":
        """Return the curve through the ``pairs`` that are finite, thinned if many."""
        good = [(x, y) for x, y in pairs if y is not None and isfinite(y)]
        step = max(1, ceil(len(good) / MOST_POINTS))
        last = [] if not good or (len(good) - 1) % step == 0 else [good[-1]]
        return cls(name, (*good[::step], *last))


@dataclass(frozen=True, slots=True)
class Lines:
    """Curves over a common x axis.

    Attributes:
        slug: short name for files and anchors.
        note: one sentence on how to read it.
        unit: of y: ``""``, ``"bytes"``, ``"s"`` or ``"%"``.
        from_zero: the y axis begins at 0, for amounts.
    """

    slug: str
    title: str
    note: str
    x_label: str
    unit: str
    series: tuple[Line, ...]
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Stacked bars.

    Attributes:
        labels: of the bars, left to right.
        stacks: (name, one height a bar), bottom first.
    """

    slug: str
    title: str
    note: str
    x_label: str
    labels: tuple[str, ...]
    stacks: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Heat:
    """A table of numbers >= 0, the larger the darker.

    Attributes:
        cells: one tuple a row; all as long as ``columns``.
    """

    slug: str
    title: str
    note: str
    x_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float, ...], ...]


Chart = Lines | Bars | Heat


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that cover [low, high], ``about`` many of them."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float, unit: str = "") -> str:
    """Return ``value`` for people: ``1.2 MB``, ``350 ms``, ``4.2 h``, ``97.5 %``."""
    if unit == "%":
        return f"{100 * value:.4g} %"
    if unit == "s":
        return _duration(value)
    suffix = "B" if unit == "bytes" else ""
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if abs(value) >= 1000**power:
            return f"{value / 1000**power:.3g} {letter}{suffix}"
    return f"{value:.4g} {suffix}".rstrip()


def _duration(value_s: float) -> str:
    if 0 < abs(value_s) < 1:
        return f"{1000 * value_s:.3g} ms"
    for one_s, letters in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(value_s) >= 3 * one_s:
            return f"{value_s / one_s:.3g} {letters}"
    return f"{value_s:.4g} s"


def histogram(values: Sequence[int], bins: int = 20) -> tuple[list[str], list[float]]:
    """Return labels and counts of at most ``bins`` equal ranges of whole numbers."""
    low, high = min(values), max(values)
    width = max(1, ceil((high - low + 1) / bins))
    counts = [0.0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    starts = [low + i * width for i in range(len(counts))]
    names = [str(s) if width == 1 else f"{s}-{s + width - 1}" for s in starts]
    return names, counts
