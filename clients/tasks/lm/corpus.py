"""A user's own texts: a file of JSON lines or CSV, a text file, or a folder of them.

Every record has a ``text``, or an ``instruction`` (perhaps with an ``input``) and an
``output``. A column says who wrote it; in a folder every file is one owner's.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        files = _texts(path)
        found = [Record(_owner(file, path), _text(file).strip()) for file in files]
    elif _kind(path) == ".txt":
        found = [Record("", _text(path).strip())]
    elif _kind(path) in KINDS:
        rows = _json_lines(path) if _kind(path) == ".jsonl" else _csv_lines(path)
        found = [_record(where, row, user) for where, row in rows]
    else:
        raise ConfigError(f"{data} is no folder and ends in none of {', '.join(KINDS)}")
    kept = [record for record in found if record.text]
    if not kept:
        raise ConfigError(f"{data} holds no text: all {len(found)} records are empty")
    if len({bool(record.prompt) for record in kept}) > 1:
        raise ConfigError(f"{data} mixes texts with questions: make two files of it")
    return kept


def _kind(path: Path) -> str:
    return path.suffix.lower()


def _texts(folder: Path) -> list[Path]:
    """Return the text files below ``folder``, in order."""
    found = (p for p in folder.rglob("*") if _kind(p) == ".txt" and p.is_file())
    files = sorted(found)
    if not files:
        raise ConfigError(f"{folder} holds no .txt file: a .jsonl or .csv is named")
    return files


def _owner(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.absolute()} does not exist: give task.data a path from here"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{where} is no object, such as {{"text": "..."}}')
        yield where, row


def _csv_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = _text(path)
    reader = csv.DictReader(
        StringIO(text, newline=""), strict=True, skipinitialspace=True
    )
    try:
        with _fields_up_to(len(text)):
            rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num} is no CSV: {error}") from error
    for where, row in rows:
        if None in row or None in row.values():
            raise ConfigError(f"{where} has not as many fields as the first line")
        yield where, row


@contextmanager
def _fields_up_to(length: int) -> Iterator[None]:
    """Let fields be longer than the 131 072 characters that csv allows by itself."""
    before = csv.field_size_limit(max(1, length))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _record(where: str, row: Mapping[str, Any], user: str) -> Record:
    if user and user not in row:
        raise ConfigError(f"{where} has no column {user!r}; {nearest(user, row)}")
    owner, label = _named(where, row, user or OWNER), _named(where, row, "label")
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


def _named(where: str, row: Mapping[str, Any], key: str) -> str:
    """Return who wrote the row, or its label: text or a number; "" for none."""
    value = row.get(key)
    if isinstance(value, dict | list):
        raise ConfigError(f"{where}: {key} must be a name, not {value!r:.40}")
    return "" if value is None else _sound(where, key, str(value))


def _field(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if value is None and key == "input":  # as many data sets write "no input"
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key} must be text, not {value!r:.40}")
    return _sound(where, key, value.strip())


def _sound(where: str, key: str, text: str) -> str:
    """Return ``text`` if it is Unicode: JSON can also write halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {key} is no Unicode text: {error}") from error
    return text


def lines_by_owner(found: Iterable[Record]) -> Mapping[str, Sequence[str]]:
    """Return the texts of each owner, in order."""
    lines: dict[str, list[str]] = {}
    for record in found:
        lines.setdefault(record.owner, []).append(record.text)
    return lines
