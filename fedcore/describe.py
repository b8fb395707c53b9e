"""A configuration written out: as TOML, flat as Flower wants it, and as help."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from fedcore.fields import NOTHING, entries_of, section_of
from fedcore.kinds import as_text, words_for, written


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key that can be set, for help and generated documentation.

    Attributes:
        key: dotted, such as ``"strategy.server_lr"``.
        type: what its value is, in words, or the names to choose from.
        default: as TOML; empty if it must be given.
        help: from the ``Attributes:`` part of the class's docstring.
        only_for: the ``name`` of the section that has this key; empty: always there.
    """

    key: str
    type: str
    default: str
    help: str
    only_for: str = ""


def dump(config: object, *, with_help: bool = False) -> str:
    """Return ``config``, a dataclass, as TOML that ``build`` reads back equal.

    Args:
        config: the configuration; every key is written, defaults too.
        with_help: write what each key means above it.
    """
    lines: list[str] = []
    for at, keys in _sections(config, ""):
        lines += ["", f"[{at}]"] if at else []
        for key, value, text in keys:
            lines += [f"# {line}" for line in wrap(text, 78) if with_help]
            lines.append(f"{_toml_key(key)} = {written(value)}")
    return "\n".join(lines).strip() + "\n"


def flat(config: object) -> dict[str, bool | int | float | str]:
    """Return ``config`` as Flower's run-config; ``from_flat`` reads it back."""
    return {
        f"{at}.{key}" if at else key: _flat_value(value)
        for at, keys in _sections(config, "")
        for key, value, _ in keys
    }


def describe(cls: Any) -> list[Key]:
    """Return every key that ``cls``, a dataclass, takes, in order of declaration.

    Loads the classes of every registry that ``cls`` chooses from.
    """
    return list(_described(cls, at="", only_for="", base=None))


def _described(cls: Any, at: str, only_for: str, base: object) -> Iterator[Key]:
    for entry in entries_of(cls):
        key = at + entry.name
        default = entry.default() if base is None else getattr(base, entry.name)
        section = section_of(entry.hint)
        if entry.choice is not None:
            names = " | ".join(entry.choice.names())
            name = written(entry.choice.name_of(default))
            yield Key(f"{key}.name", names, name, entry.help, only_for)
            for name in entry.choice.names():
                variant = entry.choice.load(name)
                same = default if type(default) is variant else None
                yield from _described(variant, f"{key}.", name, same)
        elif section is not None:
            inner = None if default is NOTHING else default
            yield from _described(section, f"{key}.", only_for, inner)
        else:
            yield Key(key, words_for(entry.hint), _shown(default), entry.help, only_for)


def _sections(
    config: Any, at: str, name: str = "", name_help: str = ""
) -> Iterator[tuple[str, list[tuple[str, object, str]]]]:
    """Yield each section with its keys, values and help, outer sections first."""
    keys: list[tuple[str, object, str]] = [("name", name, name_help)] if name else []
    inner = []
    for entry in entries_of(type(config)):
        value, below = getattr(config, entry.name), f"{at}.{entry.name}".lstrip(".")
        if entry.choice is not None:
            chosen = entry.choice.name_of(value)
            inner.append(_sections(value, below, chosen, entry.help))
        elif section_of(entry.hint) is not None:
            inner.append(_sections(value, below))
        elif entry.is_table:
            rows = [(key, item, "") for key, item in value.items()]
            inner.append(iter([(below, rows)]))
        else:
            keys.append((entry.name, value, entry.help))
    if keys:
        yield at, keys
    for section in inner:
        yield from section


def _flat_value(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float) else as_text(value)


def _shown(default: object) -> str:
    if default is NOTHING:
        return ""
    return "{}" if isinstance(default, Mapping) else written(default)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else written(key)
