"""One self-contained HTML page: no request leaves it, light and dark, no script."""

from collections.abc import Mapping, Sequence
from html import escape

from sims.report.chart import Bars, Chart, Heat, Lines
from sims.report.style import style
from sims.report.svg import svg


def page(
    title: str,
    subtitle: str,
    facts: Mapping[str, str],
    charts: Sequence[Chart],
    sections: Sequence[str] = (),
) -> str:
    """Return the whole document.

    Args:
        title: heading, and name of the tab.
        subtitle: one line under it.
        facts: label -> value, shown as cards.
        charts: drawn in order.
        sections: more parts, HTML made by ``table`` and ``folded``.
    """
    cards = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>"
        for label, value in facts.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{style()}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>"
        f'<div class="facts">{cards}</div>'
        f'<div class="charts">{"".join(map(_figure, charts))}</div>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def _figure(chart: Chart) -> str:
    names: list[str] = []
    match chart:
        case Lines():
            names = [line.name for line in chart.series]
        case Bars():
            names = [name for name, _ in chart.stacks]
        case Heat():
            pass
    keys = "".join(
        f'<span class="key"><i class="b{i % 6}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
        if len(names) > 1
    )
    return (
        f'<figure id="{escape(chart.slug)}"><h3>{escape(chart.title)}</h3>'
        f"<p>{escape(chart.note)}</p>{keys}{svg(chart)}</figure>"
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a titled table; wide ones scroll on their own."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<h2>{escape(title)}</h2><div class="wide"><table><thead><tr>{top}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def folded(title: str, text: str) -> str:
    """Return ``text`` as it is, behind a heading that opens it."""
    head = f"<summary>{escape(title)}</summary>"
    return f"<details>{head}<pre>{escape(text)}</pre></details>"
