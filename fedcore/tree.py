"""Typed values as JSON and named tensors, and back, with no code on the way.

Reading is driven by type hints that the caller gives: what is stored can fill the
fields of the classes that the hints name, and can never choose a class itself.

    value                      JSON
    None, bool, int, str       itself
    float                      itself; {"float": "inf"} where JSON has no word for it
    Tensor                     {"tensor": "3"}, a name among the tensors
    tuple, list                [...]; read back as a tuple
    Mapping                    {"map": [[key, value], ...]} in its own order
    Mapping[str, Tensor]       {"params": [5, {name: "3", ...}]}, and {"params": [5]}
                               when the same object is met again
    frozenset                  {"set": [...]} sorted
    dataclass Point            {"Point": {field: value, ...}}

Tensors and ``Params`` that are one object are stored once and read back as one
object, so that the works in flight go on sharing their model. Tensors are read back
on the CPU.
"""

import json as text
from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

from torch import Tensor

from fedcore.errors import ConfigError, StorageError
from fedcore.hints import Hint, field_hints, origin_of

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_SEQUENCES = (tuple, list, abc.Sequence)
_MAPPINGS = (dict, abc.Mapping)
_SETS = (frozenset, abc.Set, abc.Collection)


def flatten(value: object) -> tuple[Json, dict[str, Tensor]]:
    """Return the structure of ``value`` and its tensors, as contiguous CPU copies.

    Raises:
        ConfigError: something in ``value`` cannot be stored; the message names it.
    """
    writer = _Writer()
    return writer.write(value, type(value).__name__), writer.tensors


def restore(hint: Hint, json: Json, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value of type ``hint`` that ``flatten`` took apart.

    Raises:
        StorageError: ``json`` or ``tensors`` do not fit the hint.
        ConfigError: the hint itself is too vague to read by, such as ``Any``.
    """
    return _Reader(tensors).read(hint, json)


@dataclass
class _Writer:
    """Collects tensors while it writes.

    Attributes:
        names: name of each tensor by identity.
        trees: number of each ``Params`` by identity.
        alive: all whose identity was noted, or another object may get the same one.
        storages: memory already taken; a file may not hold the same bytes twice.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    trees: dict[int, int] = field(default_factory=dict)
    alive: list[object] = field(default_factory=list)
    storages: set[int] = field(default_factory=set)

    def write(self, value: object, where: str) -> Json:
        """Return ``value``, found at ``where``, as JSON."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return float(value) if isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, Tensor):
            return {"tensor": self._name(value)}
        return self._many(value, where)

    def _many(self, value: object, where: str) -> Json:
        if isinstance(value, tuple | list):
            return [self.write(v, where) for v in value]
        if isinstance(value, Mapping):
            if value and all(map(_is_named_tensor, value.items())):
                return {"params": self._params(value)}
            return {"map": self._pairs(value, where)}
        if isinstance(value, frozenset):
            items = [self.write(v, where) for v in value]
            return {"set": sorted(items, key=text.dumps)}
        return self._record(value, where)

    def _params(self, value: Mapping[str, Tensor]) -> list[Json]:
        if id(value) in self.trees:
            return [self.trees[id(value)]]
        self.trees[id(value)] = number = len(self.trees)
        self.alive.append(value)
        return [number, {name: self._name(t) for name, t in value.items()}]

    def _pairs(self, value: Mapping[Any, Any], where: str) -> list[Json]:
        return [
            [self.write(k, where), self.write(v, f"{where}[{k!r}]")]
            for k, v in value.items()
        ]

    def _record(self, value: object, where: str) -> Json:
        if isinstance(value, type) or not is_dataclass(value):
            raise ConfigError(
                f"{where} is a {type(value).__name__}, which cannot be stored; use "
                "numbers, strings, tensors, tuples, mappings, frozensets and frozen "
                "dataclasses of these"
            )
        parts: dict[str, Json] = {
            f.name: self.write(getattr(value, f.name), f"{where}.{f.name}")
            for f in fields(value)
            if f.init
        }
        return {type(value).__name__: parts}

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name = str(len(self.names))
            self.alive.append(tensor)
            self.tensors[name] = self._own(tensor.detach().cpu().contiguous())
        return self.names[id(tensor)]

    def _own(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` in memory of its own, copied if it is a view of more."""
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.nbytes
        if not whole or storage.data_ptr() in self.storages:
            tensor = tensor.clone()
        self.storages.add(tensor.untyped_storage().data_ptr())
        return tensor


@dataclass(frozen=True)
class _Reader:
    """Reads by hints; ``tensors`` by name, and what was read by its number."""

    tensors: Mapping[str, Tensor]
    trees: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def read(self, hint: Hint, json: Json) -> Any:
        """Return the value of type ``hint`` written as ``json``."""
        origin, args = origin_of(hint), get_args(hint)
        if is_dataclass(origin):
            return self._record(hint, json)
        if origin in (Union, UnionType):
            return self._union(args, json)
        if origin in _MAPPINGS:
            return self._mapping(args, json)
        if origin in _SETS:
            return frozenset(self._items(args, _only(json, "set")))
        if origin in _SEQUENCES:
            return tuple(self._sequence(origin, args, json))
        return self._scalar(hint, json)

    def _scalar(self, hint: Hint, json: Json) -> Any:
        if hint is Tensor:
            return self._tensor(_only(json, "tensor"))
        if hint is float and isinstance(json, dict):
            return _special(_only(json, "float"))
        if hint is float and type(json) in (int, float):
            return json  # an int where a float may stand stays an int, bit for bit
        if origin_of(hint) is Literal and json in get_args(hint):
            return json
        if hint is None and json is None:
            return None
        if hint in (NoneType, bool, int, str) and type(json) is hint:
            return json
        if hint in (None, NoneType, bool, int, str, float) or get_origin(hint):
            raise StorageError(f"stored {_short(json)} where {hint} should be")
        raise ConfigError(
            f"the hint {hint} cannot be stored; annotate the field with numbers, str, "
            "Tensor, tuple, Mapping, frozenset or a concrete dataclass"
        )

    def _tensor(self, name: Json) -> Tensor:
        if not isinstance(name, str) or name not in self.tensors:
            raise StorageError(f"tensor {_short(name)} is missing")
        return self.tensors[name]

    def _union(self, hints: Sequence[Hint], json: Json) -> Any:
        if type(json) is int and int in hints:
            return json  # before float, which would take it too
        for hint in hints:
            try:
                return self.read(hint, json)
            except StorageError:
                continue
        raise StorageError(f"stored {_short(json)} where one of {hints} should be")

    def _items(self, args: Sequence[Hint], json: Json) -> list[Any]:
        if not isinstance(json, list) or not args:
            raise StorageError(f"stored {_short(json)} where a list should be")
        return [self.read(args[0], item) for item in json]

    def _sequence(self, origin: Hint, args: Sequence[Hint], json: Json) -> list[Any]:
        if origin is not tuple or args[1:] == (Ellipsis,):
            return self._items(args, json)
        if not isinstance(json, list) or len(json) != len(args):
            raise StorageError(f"stored {_short(json)} where {len(args)} items belong")
        return [self.read(h, item) for h, item in zip(args, json, strict=True)]

    def _params(self, json: Json) -> dict[str, Tensor]:
        if not isinstance(json, list) or not json or type(json[0]) is not int:
            raise StorageError(f"stored {_short(json)} where Params should be")
        number, names = json[0], json[1] if len(json) > 1 else None
        if isinstance(names, dict):
            self.trees[number] = {n: self._tensor(name) for n, name in names.items()}
        if number not in self.trees:
            raise StorageError(f"the tree of tensors {number} is missing")
        return self.trees[number]

    def _mapping(self, args: Sequence[Hint], json: Json) -> dict[Any, Any]:
        of_tensors = args[0] is str and Tensor in (args[1], *get_args(args[1]))
        if of_tensors and isinstance(json, dict) and "params" in json:
            return self._params(_only(json, "params"))
        pair: Any = tuple
        pairs = self._items([pair[args]], _only(json, "map"))
        result = dict(pairs)
        if len(result) != len(pairs):
            raise StorageError("a stored mapping has a key twice")
        return result

    def _record(self, hint: Hint, json: Json) -> Any:
        cls = origin_of(hint)
        parts, hints = _only(json, cls.__name__), field_hints(hint)
        names = {f.name for f in fields(cls) if f.init}
        if not isinstance(parts, dict) or parts.keys() != names:
            raise StorageError(f"stored {_short(parts)} is not a {cls.__name__}")
        values = {n: self.read(hints[n], part) for n, part in parts.items()}
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise StorageError(f"not a {cls.__name__}: {error}") from error


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _only(json: Json, key: str) -> Json:
    """Return what is under ``key`` in an object that has no other key."""
    if not isinstance(json, dict) or json.keys() != {key}:
        raise StorageError(f"stored {_short(json)} where {key!r} should be")
    return json[key]


def _special(word: Json) -> float:
    if word not in ("inf", "-inf", "nan"):
        raise StorageError(f"stored {_short(word)} is not a number")
    return float(str(word))


def _short(json: Json) -> str:
    whole = repr(json)
    return whole if len(whole) <= 60 else f"{whole[:57]}..."
