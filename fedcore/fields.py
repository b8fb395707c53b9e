"""What can be configured: the fields of a dataclass, with types, defaults and help."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

from fedcore.errors import ConfigError

NOTHING: Final = object()  # "no default", where None is a value


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A registry to pick a class from by name; see ``choice``."""

    registry: Mapping[str, Any] | str
    default: str

    def table(self) -> Mapping[str, Any]:
        """Return name -> class, or where to find the class."""
        return (
            _found(self.registry) if isinstance(self.registry, str) else self.registry
        )

    def names(self) -> list[str]:
        """Return the names that exist, sorted."""
        return sorted(self.table())

    def load(self, name: str) -> Any:
        """Return the class called ``name``, which must exist."""
        found = self.table()[name]
        return _found(found) if isinstance(found, str) else found

    def name_of(self, value: object) -> str:
        """Return the name under which the class of ``value`` is registered.

        Raises:
            ConfigError: it is not in the registry.
        """
        for name in self.names():
            if self.load(name) is type(value):
                return name
        kind = type(value).__name__
        raise ConfigError(f"{kind} is not registered; there are {self.names()}")

    def names_with(self, key: str) -> list[str]:
        """Return the names whose classes have a field called ``key``."""
        return [
            name
            for name in self.names()
            if any(entry.name == key for entry in entries_of(self.load(name)))
        ]


def choice(registry: Mapping[str, Any] | str, default: str) -> Any:
    """Return a dataclass field whose class is picked by name from ``registry``.

    Args:
        registry: name -> class, or where to find it, as ``"module:NAME"``; so may
            each class be given. Nothing is imported before it is needed.
        default: the name chosen when the user chooses none.
    """
    chosen = Choice(registry, default)
    return dataclasses.field(
        default_factory=lambda: chosen.load(default)(), metadata={"choice": chosen}
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One field of a configuration class.

    Attributes:
        default: returns the default, or ``NOTHING``.
        choice: set if the field is a section whose ``name`` picks a class.
    """

    name: str
    hint: Any
    help: str
    default: Callable[[], object]
    choice: Choice | None

    @property
    def is_table(self) -> bool:
        """Tell whether the field is a mapping with free keys."""
        form = get_origin(self.hint)
        return isinstance(form, type) and issubclass(form, Mapping)

    @property
    def item_hint(self) -> Any:
        """Return the type of the values of a mapping with free keys."""
        return get_args(self.hint)[1]


def entries_of(cls: Any) -> tuple[Entry, ...]:
    """Return the fields that ``cls``, a dataclass, takes, in order."""
    return _entries_of(cls)


@cache
def _entries_of(cls: Any) -> tuple[Entry, ...]:
    hints, helps = get_type_hints(cls), help_of(cls)
    return tuple(
        Entry(
            field.name,
            hints[field.name],
            helps.get(field.name, ""),
            _default_of(field),
            field.metadata.get("choice"),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def section_of(hint: object) -> Any:
    """Return ``hint`` if it is a dataclass, and so a section; otherwise None."""
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def help_of(cls: Any) -> Mapping[str, str]:
    """Return field -> text, from the ``Attributes:`` part of the docstring.

    A field that is inherited has the text of the class that it comes from.
    """
    helps: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        helps |= _help_in(each.__doc__ or "")
    return helps


def _help_in(docstring: str) -> Mapping[str, str]:
    text = inspect.cleandoc(docstring)
    part = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    if part is None:
        return {}
    block = inspect.cleandoc("\n" + part[1])
    pairs = re.findall(r"^(\w+):((?:.*)(?:\n[ \t]+.*)*)", block, re.MULTILINE)
    return {name: " ".join(words.replace("``", "").split()) for name, words in pairs}


def _default_of(field: "dataclasses.Field[Any]") -> Callable[[], object]:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    value = NOTHING if field.default is dataclasses.MISSING else field.default
    return lambda: value


def _found(place: str) -> Any:
    """Return the object at ``place``, which is ``"module:NAME"``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
