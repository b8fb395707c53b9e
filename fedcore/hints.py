"""Type hints of dataclasses, read so that values can be checked and stored by them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fedcore.errors import ConfigError

Hint = Any  # a type as it stands in an annotation: ``int``, ``Mapping[str, Tensor]``


def hint_of(example: object) -> Hint:
    """Return the type of ``example``, type arguments of its dataclass included.

    ``hint_of(Desk(Model(...), Waiting()))`` is ``Desk[Model, Waiting]``.
    """
    cls = type(example)
    names = getattr(cls, "__parameters__", ())
    if not names or not is_dataclass(cls):
        return cls
    hints = field_hints(cls)
    known = {hints[f.name]: getattr(example, f.name) for f in fields(cls)}
    missing = [str(name) for name in names if name not in known]
    if missing:
        raise ConfigError(
            f"{cls.__name__}: no field is annotated with just {', '.join(missing)}; "
            "add one, or give the fields concrete types"
        )
    generic: Any = cls
    return generic[tuple(hint_of(known[name]) for name in names)]


@cache
def field_hints(hint: Hint) -> Mapping[str, Hint]:
    """Return the hints of a dataclass's fields, its type arguments put in."""
    cls, args = origin_of(hint), get_args(hint)
    given = dict(zip(cls.__parameters__, args, strict=True)) if args else {}
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise ConfigError(f"annotations of {cls.__name__}: {error}") from error
    return {name: _filled(h, given) for name, h in hints.items()}


def origin_of(hint: Hint) -> Any:
    """Return ``Mapping`` for ``Mapping[str, int]``, and ``int`` for ``int``."""
    return get_origin(hint) or hint


def _filled(hint: Hint, given: Mapping[Hint, Hint]) -> Hint:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    names = getattr(hint, "__parameters__", ()) if get_origin(hint) else ()
    return hint[tuple(given.get(n, n) for n in names)] if names else hint
