"""Configuration is a frozen dataclass: built from settings, written back as TOML.

A field of a simple type is a key, a nested dataclass is a section, and a field made
by ``choice`` is a section whose ``name`` picks a class from a registry:

    @dataclass(frozen=True)
    class Config:
        rounds: int = 5
        strategy: Strategy[Any] = choice("strategies:STRATEGIES", "fedavg")

    build(Config, from_flags(["rounds=9", "strategy.name=fedadam"]))

Every mistake is a ``ConfigError`` that names the key, what it must be, and the line
or flag that set it; a key or name that does not exist brings the nearest ones.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from fedcore.describe import Key, describe, dump, flat
from fedcore.errors import ConfigError
from fedcore.fields import NOTHING, Choice, Entry, choice, entries_of, section_of
from fedcore.kinds import WrongKindError, converted, words_for
from fedcore.settings import (
    Setting,
    Settings,
    from_file,
    from_flags,
    from_flat,
    from_toml,
    layered,
)

__all__ = [
    "Key",
    "Setting",
    "Settings",
    "build",
    "choice",
    "describe",
    "dump",
    "flat",
    "from_file",
    "from_flags",
    "from_flat",
    "from_toml",
    "layered",
    "nearest",
]

MOST_ORIGINS = 3  # defaults that are named where several do not go together

T = TypeVar("T")
Group = Mapping[str, Setting]  # keys below one section; "" is the section itself


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the names in ``valid`` that ``name`` may have meant, as a clause."""
    known = sorted(set(valid))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not known:
        return "there are none"
    if not close:
        more = ", ..." if len(known) > 20 else ""
        return f"valid: {_quoted(known[:20])}{more}"
    return f"the nearest {'is' if len(close) == 1 else 'are'} {_quoted(close)}"


def build(cls: type[T], settings: Settings) -> T:
    """Return a ``cls`` with ``settings``; the rest takes its defaults.

    Raises:
        ConfigError: a key or a name is unknown, a value has the wrong type or is out
            of range, or one without a default is missing.
    """
    return cast("T", _make(cls, settings, at="", base=None))


def _make(cls: Any, given: Group, at: str, base: object) -> object:
    """Return a ``cls`` for section ``at``; ``base`` gives the defaults, if not None."""
    entries = {entry.name: entry for entry in entries_of(cls)}
    groups: dict[str, dict[str, Setting]] = {}
    for key, setting in given.items():
        head, _, rest = key.partition(".")
        name = head if head in entries else head.replace("-", "_")
        if name not in entries:
            keys = _keys_of(entries.values(), at)
            raise _unknown(at + key, setting, nearest(at + key, keys))
        groups.setdefault(name, {})[rest] = setting
    values = {}
    for name, entry in entries.items():
        values[name] = entry.default() if base is None else getattr(base, name)
        if name in groups or values[name] is NOTHING:
            group = groups.get(name, {})
            values[name] = _value(entry, group, at + name, values[name])
    try:
        return cls(**values)
    except ConfigError as error:
        section = f"[{at[:-1]}] " if at else ""
        raise ConfigError(f"{section}{error}{blamed(given)}") from error


def blamed(given: Group) -> str:
    """Return who set the values of a section: the user, or else a few defaults."""
    origins = sorted({setting.origin for setting in given.values()})
    own = [origin for origin in origins if not origin.startswith("default ")]
    told = own or [*origins[:MOST_ORIGINS], *["..."] * (len(origins) > MOST_ORIGINS)]
    return f" ({', '.join(told)})" if told else ""


def _value(entry: Entry, group: Group, at: str, default: object) -> object:
    if entry.choice is not None:
        return _variant(entry.choice, group, at, default)
    section = section_of(entry.hint)
    if section is not None:
        if "" in group:
            inner = _keys_of(entries_of(section), f"{at}.")
            raise _unknown(at, group[""], f"it is a section: {_quoted(sorted(inner))}")
        base = None if default is NOTHING else default
        return _make(section, group, f"{at}.", base)
    return _plain_value(entry, group, at)


def _plain_value(entry: Entry, group: Group, at: str) -> object:
    if entry.is_table and "" not in group:
        return {
            key: _converted(entry.item_hint, setting, f"{at}.{key}")
            for key, setting in group.items()
        }
    if not group:
        raise ConfigError(f"{at} is missing: it must be {words_for(entry.hint)}")
    for key, setting in group.items():
        if key:
            raise _unknown(f"{at}.{key}", setting, f"{at} is one value, no section")
    return _converted(entry.hint, group[""], at)


def _converted(hint: object, setting: Setting, at: str) -> object:
    try:
        return converted(hint, setting.value, is_text=setting.is_text)
    except WrongKindError as error:
        raise ConfigError(
            f"{at} must be {words_for(hint)}, not {error} ({setting.origin})"
        ) from error


def _variant(options: Choice, group: Group, at: str, default: object) -> object:
    """Return the object that the section's ``name`` picks; ``at`` alone may name it."""
    names = [group[key] for key in group if key in ("name", "")]
    named = max(reversed(names), key=lambda setting: setting.layer, default=None)
    if named is None:
        name = options.name_of(default)
    else:
        name = str(_converted(str, named, f"{at}.name"))
        if name not in options.names():
            near = nearest(name, options.names())
            raise ConfigError(f'{at}.name: no "{name}"; {near} ({named.origin})')
    cls = options.load(name)
    rest = {key: s for key, s in group.items() if key not in ("", "name")}
    own = {entry.name for entry in entries_of(cls)}
    for key, setting in list(rest.items()):
        if key.partition(".")[0].replace("-", "_") in own:
            continue
        if named is not None and setting.layer < named.layer:
            del rest[key]
        else:
            raise _foreign(options, name, key, setting, at)
    base = default if type(default) is cls else None
    return _make(cls, rest, f"{at}.", base)


def _foreign(
    options: Choice, name: str, key: str, setting: Setting, at: str
) -> ConfigError:
    """Return the error for a ``key`` that variant ``name`` does not have."""
    cls = options.load(name)
    owners = options.names_with(key.replace("-", "_"))
    if owners:
        near = f'"{name}" has none; {_quoted(owners)} would'
    else:
        keys = _keys_of(entries_of(cls), f"{at}.")
        near = nearest(f"{at}.{key}", {f"{at}.name", *keys})
    return _unknown(f"{at}.{key}", setting, near)


def _keys_of(entries: Iterable[Entry], at: str) -> set[str]:
    """Return all keys at and below section ``at``, without loading any variant."""
    keys: set[str] = set()
    for entry in entries:
        section = section_of(entry.hint)
        if entry.choice is not None:
            keys.add(f"{at}{entry.name}.name")
        elif section is not None:
            keys |= _keys_of(entries_of(section), f"{at}{entry.name}.")
        else:
            keys.add(at + entry.name)
    return keys


def _unknown(key: str, setting: Setting, near: str) -> ConfigError:
    return ConfigError(f'no setting "{key}"; {near} ({setting.origin})')


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
