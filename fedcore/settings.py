"""Settings as the user gave them: dotted keys, values, and where each came from.

A TOML file, ``--set`` flags and Flower's flat run-config all become the same flat
mapping, so that ``fedcore.config`` reads one form and an error can name the line or
the flag to change.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.errors import ConfigError

_HEADER = re.compile(r"^\s*\[\[?([^\[\]]+)\]")
_ASSIGNMENT = re.compile(r"""^\s*((?:[\w.\- ]|"[^"]*"|'[^']*')+?)\s*=""")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that the user set.

    Attributes:
        value: what was given; text still to be read if ``is_text``.
        origin: where it was given, such as ``"run.toml, line 7"``.
        is_text: read ``value`` as its key's type asks, as for a flag.
        layer: how late it was given; see ``layered``.
    """

    value: object
    origin: str
    is_text: bool = False
    layer: int = 0


Settings = Mapping[str, Setting]  # "strategy.min_steps" -> Setting


def from_file(path: Path) -> Settings:
    """Return the settings in the TOML file at ``path``.

    Raises:
        ConfigError: the file cannot be read, or is not TOML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    return from_toml(text, path.name)


def from_toml(text: str, source: str = "config") -> Settings:
    """Return the settings in the TOML ``text``; ``source`` names it in errors.

    Raises:
        ConfigError: ``text`` is not TOML; names the line.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    lines = _lines_of(text)
    return {
        key: Setting(value, _place(source, lines, key))
        for key, value in _leaves(table, "")
    }


def from_flags(flags: Sequence[str], flag: str = "--set") -> Settings:
    """Return the settings in ``flags``, each ``key=value``; the last of a key wins.

    Raises:
        ConfigError: a flag is not of this form.
    """
    found = {}
    for text in flags:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{flag} {text}: write key=value, such as run.rounds=5")
        found[key.strip()] = Setting(value.strip(), f"{flag} {text}", is_text=True)
    return found


def from_flat(values: Mapping[str, object], source: str = "run-config") -> Settings:
    """Return the settings in ``values``, flat as in Flower's run-config.

    Lists have no place there and come as text, such as ``"[1, 2]"``.
    """
    return {
        key: Setting(value, f"{source} {key}", is_text=isinstance(value, str))
        for key, value in values.items()
    }


def layered(*layers: Settings) -> Settings:
    """Return all ``layers`` as one; where two set the same key, the later wins.

    When a later layer chooses another ``name`` in a section, what earlier layers
    set there for the old choice, and the new one does not have, is left behind.
    """
    return {
        key: replace(setting, layer=depth)
        for depth, layer in enumerate(layers)
        for key, setting in layer.items()
    }


def _leaves(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _lines_of(text: str) -> dict[str, int]:
    """Return the line, from 1, on which each dotted key of a TOML text is set."""
    lines: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            prefix = f"{_plain(header[1])}."
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment is not None:
            lines.setdefault(prefix + _plain(assignment[1]), number)
    return lines


def _plain(key: str) -> str:
    return ".".join(part.strip(" \t\"'") for part in key.split("."))


def _place(source: str, lines: Mapping[str, int], key: str) -> str:
    """Return where ``key`` was set; an inline table's keys share its line."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{source}, line {lines[key]}" if key else source
