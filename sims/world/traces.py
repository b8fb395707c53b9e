"""Trace files: measured speeds, links and hours of real devices, read with care.

A trace is a table with one line per device and moment. CSV has a header line;
JSON is an array of objects with the same keys. A device is named by ``peer`` or
numbered by ``index``. Peers that the file does not name take its devices in turn,
so forty measured phones can stand for ten thousand.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path

from fedcore.errors import ConfigError
from sims.world.site import Site

MAX_BYTES = 64 * 2**20

Row = Mapping[str, float]


@dataclass(frozen=True)
class Traces:
    """The rows of a trace file by device.

    Attributes:
        named: rows of devices that the file names; in order of the file.
        devices: rows of every device, in order of first appearance.
    """

    named: Mapping[str, Sequence[Row]]
    devices: Sequence[Sequence[Row]]

    def rows(self, site: Site) -> Sequence[Row]:
        """Return the rows that ``site`` lives by: its own, or those of its turn."""
        own = self.named.get(site.peer)
        return own if own is not None else self.devices[site.index % len(self.devices)]


@dataclass(frozen=True)
class Columns:
    """The numbers a trace must and may hold.

    Attributes:
        required: column names; every row has a finite number >= ``low`` there.
        optional: the same, with the value that stands for an empty cell.
        low: smallest legal value by column; 0 where not given.
    """

    required: Sequence[str]
    optional: Mapping[str, float]
    low: Mapping[str, float]


def read_traces(file: str, columns: Columns) -> Traces:
    """Read and check a trace file.

    Args:
        file: path of a ``.csv`` or ``.json`` file, UTF-8, at most 64 MB.
        columns: what the rows hold.

    Raises:
        ConfigError: the file is missing or damaged; names the file and the line.
    """
    text = _text(file)
    table = _from_json(file, text) if file.endswith(".json") else _from_csv(file, text)
    groups: dict[str, list[Row]] = {}
    for where, cells in table:
        groups.setdefault(_device(where, cells), []).append(
            _numbers(where, cells, columns)
        )
    if not groups:
        raise ConfigError(f"{file} holds no rows; a trace needs at least one device")
    named = {name[1:]: rows for name, rows in groups.items() if name[0] == "p"}
    return Traces(named, list(groups.values()))


def in_order(file: str, traces: Traces, column: str) -> Traces:
    """Return ``traces`` if ``column`` never falls within a device.

    Raises:
        ConfigError: it does.
    """
    for rows in traces.devices:
        times = [row[column] for row in rows]
        if times != sorted(times):
            raise ConfigError(f"{file}: {column} must not fall within one device")
    return traces


def _text(file: str) -> str:
    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file} is larger than {MAX_BYTES >> 20} MB")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the trace file {file!r}: {error}") from error


def _from_csv(file: str, text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{file} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(where, cells)
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    f"{where} has {len(cells)} cells; the header has {len(header)}"
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{file} line {reader.line_num}: {error}") from error


def _header(where: str, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names):
        raise ConfigError(f"{where} names a column twice: {', '.join(names)}")
    return names


def _from_json(file: str, text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deeply for a table") from error
    if not isinstance(items, list):
        raise ConfigError(f"{file} must hold an array of objects, one per row")
    for number, item in enumerate(items, 1):
        where = f"{file} item {number}"
        if not isinstance(item, dict):
            raise ConfigError(f"{where} is not an object")
        yield where, item


def _device(where: str, cells: Mapping[str, object]) -> str:
    """Return ``p`` and the peer's name, or ``i`` and the device's number."""
    peer, index = cells.get("peer"), cells.get("index")
    if isinstance(peer, str) and peer.strip():
        return "p" + peer.strip()
    if index is None or isinstance(index, bool) or not str(index).strip().isdecimal():
        raise ConfigError(f"{where} needs a name in 'peer' or a number in 'index'")
    return "i" + str(int(str(index)))


def _numbers(where: str, cells: Mapping[str, object], columns: Columns) -> Row:
    row: dict[str, float] = {}
    for name in (*columns.required, *columns.optional):
        cell = cells.get(name, "")
        if cell == "" and name in columns.optional:
            row[name] = columns.optional[name]
            continue
        row[name] = _number(f"{where}: {name}", cell, columns.low.get(name, 0.0))
    return row


def _number(where: str, cell: object, low: float) -> float:
    try:
        value = float(cell) if isinstance(cell, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        value = float("nan")
    if isinstance(cell, bool) or not isfinite(value) or value < low:
        raise ConfigError(f"{where} is {cell!r}; expected a number >= {low:g}")
    return value
