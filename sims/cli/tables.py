"""Tables and JSON lines on stdout."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedcore.metrics import plain


def say(text: str) -> None:
    """Write a line to stdout, to be read at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(values: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line to stdout."""
    for value in values:
        say(json.dumps(plain(value)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table: the first column to the left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def pairs(values: Mapping[str, str]) -> str:
    """Return ``label  value`` lines, aligned."""
    width = max(map(len, values))
    return "\n".join(f"{label.ljust(width)}  {text}" for label, text in values.items())
