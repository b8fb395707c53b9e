"""Rows for people: a table on the terminal, a section of the page of results."""

from collections.abc import Sequence
from pathlib import Path

from fedcore.errors import ConfigError
from sims.bench.frame import Row

HEAD = ("comparison", "work", "ours", "other", "ratio", "unit", "note")
TITLE = (
    "# Benchmarks\n\nWritten by `fedcore bench`; see each section for the command.\n"
)


def line(row: Row) -> str:
    """Return one row for the terminal."""
    figures = f"{number(row.ours):>9} {number(row.other):>9} {times(row.ratio):>7}"
    note = f"  {row.note}" if row.note else ""
    return f"{row.name:<34} {figures} {row.unit}{note}"


def number(value: float | None) -> str:
    """Return ``value`` with three digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(ratio: float | None) -> str:
    """Return ``ratio`` as a factor, or a dash."""
    return "-" if ratio is None else f"{number(ratio)}x"


def section(name: str, command: str, facts: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the Markdown section of one benchmark."""
    cells = [
        (
            r.name,
            r.work,
            number(r.ours),
            number(r.other),
            times(r.ratio),
            r.unit,
            r.note,
        )
        for r in rows
    ]
    table = [HEAD, ("---",) * len(HEAD), *cells]
    body = "\n".join("| " + " | ".join(c) + " |" for c in table)
    about = "\n".join(f"- {fact}" for fact in facts)
    text = f"## {name}\n\n`{command}`\n\n{about}\n\n{body}\n"
    return f"{_mark(name, 'begin')}\n{text}{_mark(name, 'end')}\n"


def _mark(name: str, side: str) -> str:
    return f"<!-- {side} bench {name} -->"


def merged(page: str, name: str, text: str) -> str:
    """Return ``page`` with the section ``name`` replaced by ``text``, or added."""
    begin, end = _mark(name, "begin"), _mark(name, "end") + "\n"
    if begin in page and end in page:
        before, after = page.split(begin)[0], page.split(end)[1]
        return before + text + after
    return (page or TITLE).rstrip() + "\n\n" + text


def write(folder: Path, name: str, text: str) -> Path:
    """Put the section into ``benchmarks.md`` of ``folder``, atomically.

    Raises:
        ConfigError: the folder does not exist or cannot be written.
    """
    path = folder / "benchmarks.md"
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        fresh = path.with_suffix(".md.new")
        fresh.write_text(merged(page, name, text), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}; choose --out DIR") from error
    return path
