"""A user's own texts: a file of JSON lines or CSV, a text file, or a folder of them.

Every record has a ``text``, or an ``instruction`` (perhaps with an ``input``) and an
``output``. A column says who wrote it; in a folder every file is one owner's.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from fedcore.config import nearest
from fedcore.errors import ConfigError

KINDS = (".csv", ".jsonl", ".txt")
OWNER = "user"  # the column that is looked for unless another is named


@dataclass(frozen=True, slots=True)
class Record:
    """One text.

    Attributes:
        owner: who wrote it; "" if nobody is named.
        text: to be learned, not empty.
        prompt: what comes before it and is not learned; "" for plain text.
        label: its class; "" if it has none.
    """

    owner: str
    text: str
    prompt: str = ""
    label: str = ""


def records(data: str, user: str = "") -> list[Record]:
    """Return the records in the file or folder ``data``; those without text left out.

    Args:
        data: path of a ``.jsonl``, ``.csv`` or ``.txt`` file, or of a folder of texts.
        user: the column that names the owner; "" looks for ``user``.

    Raises:
        ConfigError: a file cannot be read or understood (says the line), texts and
            questions are mixed, or there is no text.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        found = [Record(_owner(file, path), _text(file).strip()) for file in files]
    elif path.suffix == ".txt":
        found = [Record("", _text(path).strip())]
    elif path.suffix in KINDS:
        rows = _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
        found = [_record(where, row, user) for where, row in rows]
    else:
        raise ConfigError(f"{data} is no folder and ends in none of {', '.join(KINDS)}")
    kept = [record for record in found if record.text]
    if not kept:
        raise ConfigError(f"{data} holds no text: all {len(found)} records are empty")
    if len({bool(record.prompt) for record in kept}) > 1:
        raise ConfigError(f"{data} mixes texts with questions: make two files of it")
    return kept


def _owner(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: give task.data a path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{where} is no object, such as {{"text": "..."}}')
        yield where, row


def _csv_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise ConfigError(f"{where} has not as many fields as the first line")
            yield where, row
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num} is no CSV: {error}") from error


def _record(where: str, row: Mapping[str, Any], user: str) -> Record:
    if user and user not in row:
        raise ConfigError(f"{where} has no column {user!r}; {nearest(user, row)}")
    owner, label = str(row.get(user or OWNER, "")), str(row.get("label", ""))
    if "text" in row:
        return Record(owner, _field(where, row, "text"), label=label)
    if "instruction" not in row or "output" not in row:
        raise ConfigError(
            f'{where} has neither "text" nor "instruction" and "output", but '
            f"{', '.join(map(repr, row)) or 'nothing'}; {nearest('text', row)}"
        )
    parts = (_field(where, row, "instruction"), _field(where, row, "input"))
    prompt = "\n".join(part for part in parts if part)
    return Record(owner, _field(where, row, "output"), f"{prompt}\n", label)


def _field(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key} must be text, not {value!r:.40}")
    return value.strip()


def lines_by_owner(found: Iterable[Record]) -> Mapping[str, Sequence[str]]:
    """Return the texts of each owner, in order."""
    lines: dict[str, list[str]] = {}
    for record in found:
        lines.setdefault(record.owner, []).append(record.text)
    return lines
