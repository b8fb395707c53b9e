"""Simple types of settings: reading a value as one, writing it, naming it in words.

Known types: ``bool int float str Path``, ``Literal[...]``, ``X | None`` (written
``"none"``) and other unions, ``tuple[X, ...]`` and ``tuple[X, Y]``.
"""

import json
import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from fedcore.names import shown

_WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


class WrongKindError(Exception):
    """A value is not of the type it must have; the message shows the value."""


def words_for(hint: object) -> str:
    """Return what a value of type ``hint`` is, in words, such as ``a number``."""
    form, args = get_origin(hint), get_args(hint)
    if form is Literal:
        return f"one of {', '.join(json.dumps(arg) for arg in args)}"
    if form in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else words_for(a) for a in args)
    if form is tuple and _is_list(args):
        return f"a list, each {words_for(args[0])}"
    if form is tuple:
        return f"a list of {len(args)}: {', '.join(map(words_for, args))}"
    if form is not None and issubclass(form, Mapping):
        return f"a table, each {words_for(args[1])}"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def converted(hint: object, value: object, *, is_text: bool) -> object:
    """Return ``value`` as a ``hint``; ``is_text``: read it first, as from a flag.

    Raises:
        WrongKindError: it cannot be one.
    """
    form, args = get_origin(hint), get_args(hint)
    if form is Literal:
        return _literal(args, value, is_text=is_text)
    if form is tuple:
        return _items(args, value, is_text=is_text)
    if hint in (str, Path):
        text = _unquoted(value) if is_text else value
        if type(text) is not str:
            raise WrongKindError(_shown(value))
        return text if hint is str else Path(text)
    plain = _read(value) if is_text else value
    if form in (Union, types.UnionType):
        return _any_of(args, plain)
    return _scalar(hint, plain)


def written(value: object) -> str:
    """Return ``value`` as TOML that ``converted`` reads back to an equal value."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        text = json.dumps(str(value), ensure_ascii=False)
        return text.replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(written, value))}]"
    raise TypeError(f"{type(value).__name__} is no type of a setting")


def as_text(value: object) -> str:
    """Return ``value`` as text that ``converted`` reads back with ``is_text``."""
    if isinstance(value, str | Path):
        text = str(value)
        plain = _read(text) is text and text[:1] not in ('"', "'")
        return text if plain else written(text)
    return "none" if value is None else written(value)


def _scalar(hint: object, value: object) -> object:
    if hint is bool and type(value) is bool:
        return value
    if hint is int and type(value) is int:
        return value
    if hint is float and type(value) in (int, float):
        number = _as_float(value)
        if not math.isnan(number):
            return number
    raise WrongKindError(_shown(value))


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise WrongKindError(_shown(value)) from None


def _any_of(hints: Sequence[object], value: object) -> object:
    if type(None) in hints and value == "none":
        return None
    for hint in hints:
        if hint is not type(None):
            try:
                return converted(hint, value, is_text=False)
            except WrongKindError:
                continue
    raise WrongKindError(_shown(value))


def _literal(options: Sequence[object], value: object, *, is_text: bool) -> object:
    wanted = _unquoted(value) if is_text else value
    for option in options:
        same = type(option) is type(wanted) and option == wanted
        if same or (is_text and str(option) == wanted):
            return option
    raise WrongKindError(_shown(value))


def _items(args: Sequence[object], value: object, *, is_text: bool) -> object:
    still_text = False
    if is_text and isinstance(value, str):
        value, still_text = _list_in(value)
    if not isinstance(value, list | tuple):
        raise WrongKindError(_shown(value))
    hints = [args[0]] * len(value) if _is_list(args) else list(args)
    if len(hints) != len(value):
        raise WrongKindError(f"a list of {len(value)}")
    return tuple(
        converted(hint, item, is_text=still_text)
        for hint, item in zip(hints, value, strict=True)
    )


def _list_in(text: str) -> tuple[object, bool]:
    """Return the list that ``text`` is, and whether its items are still text."""
    for form in (text, f"[{text}]"):
        value = _read(form)
        if isinstance(value, list):
            return value, False
    bare = text.removeprefix("[").removesuffix("]")
    return [item.strip() for item in bare.split(",")], True


def _is_list(args: Sequence[object]) -> bool:
    return len(args) == 2 and args[1] is Ellipsis


def _read(text: object) -> object:
    """Return the TOML value that ``text`` is; ``text`` itself if it is none."""
    if not isinstance(text, str) or "\n" in text:
        return text
    bare = text.lower() if text.lower() in ("true", "false") else text
    try:
        return tomllib.loads(f"value = {bare}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _unquoted(text: object) -> object:
    quoted = isinstance(text, str) and text[:1] in ('"', "'")
    return _read(text) if quoted else text


def _shown(value: object) -> str:
    return shown(value) if isinstance(value, str | int | float) else str(value)[:40]
