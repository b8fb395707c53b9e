"""A Flower app as its directory describes it: two components and a configuration."""

import importlib
import re
import sys
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedcore.config import nearest
from fedcore.errors import ConfigError

Value = bool | int | float | str
PAIR = re.compile(r"""\s*([^\s=]+)\s*=\s*("[^"]*"|'[^']*'|\S+)""")


@dataclass(frozen=True, slots=True)
class AppFiles:
    """What ``pyproject.toml`` says.

    Attributes:
        root: the app's directory.
        server: where its ServerApp is, as ``module:attribute``.
        client: where its ClientApp is.
        config: flat run configuration; nested keys are joined by dots.
        nodes: virtual nodes that an older Flower would start; 0 if not said.
    """

    root: Path
    server: str
    client: str
    config: Mapping[str, Value]
    nodes: int


def read_app(root: Path) -> AppFiles:
    """Return what the ``pyproject.toml`` in ``root`` says about its Flower app.

    Raises:
        ConfigError: there is none, it is damaged, or it describes no Flower app.
    """
    path = root / "pyproject.toml"
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{root} is no Flower app: it has no pyproject.toml; give the app's "
            "directory with --app"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise ConfigError(f"{path} cannot be read: {cause}") from cause
    flwr = _table(_table(whole, "tool"), "flwr")
    app = _table(flwr, "app")
    parts = _table(app, "components")
    for name in ("serverapp", "clientapp"):
        if not isinstance(parts.get(name), str):
            raise ConfigError(
                f"{path} names no {name}: add "
                f'[tool.flwr.app.components] {name} = "module:app"'
            )
    config = flat(_table(app, "config"))
    nodes = _nodes(_table(flwr, "federations"))
    return AppFiles(root, parts["serverapp"], parts["clientapp"], config, nodes)


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = parent.get(key, {})
    return table if isinstance(table, dict) else {}


def _nodes(federations: Mapping[str, Any]) -> int:
    """Return the ``num-supernodes`` of the default federation of older apps."""
    chosen = _table(federations, str(federations.get("default", "")))
    nodes = _table(chosen, "options").get("num-supernodes", 0)
    return nodes if isinstance(nodes, int) else 0


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Return ``table`` with nested keys joined by dots.

    Raises:
        ConfigError: a value is neither a truth value, a number nor a text.
    """
    result: dict[str, Value] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, Value):
            result[prefix + key] = value
        else:
            kind = type(value).__name__
            raise ConfigError(
                f"run config {prefix + key!r} is a {kind}; Flower has none"
            )
    return result


def overridden(config: Mapping[str, Value], given: Sequence[str]) -> dict[str, Value]:
    """Return ``config`` changed by ``given``.

    Args:
        config: the app's own.
        given: texts such as ``"lr=0.1 name='x'"``, or paths of TOML files.

    Raises:
        ConfigError: a text is malformed, or names a key that ``config`` has not.
    """
    result = dict(config)
    for text in given:
        for key, value in _pairs(text).items():
            if key not in config:
                raise ConfigError(
                    f"--run-config: the app has no key {key!r}; {nearest(key, config)}"
                )
            result[key] = value
    return result


def _pairs(text: str) -> dict[str, Value]:
    if text.endswith(".toml"):
        try:
            return flat(tomllib.loads(Path(text).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
            raise ConfigError(f"--run-config {text}: {cause}") from cause
    found = list(PAIR.finditer(text))
    if "".join(m.group(0) for m in found).strip() != text.strip():
        raise ConfigError(
            f"--run-config {text!r} is not of the form key=value key=value"
        )
    return {m.group(1): _value(m.group(1), m.group(2)) for m in found}


def _value(key: str, text: str) -> Value:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ConfigError(
            f"--run-config {key}={text}: put quotes around a text: {key}='{text}'"
        ) from None
    return flat({key: value})[key]


@dataclass(frozen=True, slots=True)
class App:
    """The two halves of a Flower app, imported."""

    server: ServerApp
    client: ClientApp


def load_app(files: AppFiles) -> App:
    """Import the components of an app; its directory goes first on ``sys.path``.

    Raises:
        ConfigError: a module is missing or fails when it is imported, or holds no
            such app; says where.
    """
    root = str(files.root.resolve())
    if root not in sys.path:
        sys.path.insert(0, root)
    server = _component(files, files.server, ServerApp)
    return App(server, _component(files, files.client, ClientApp))


def _component(files: AppFiles, reference: str, kind: type[Any]) -> Any:
    name, _, attribute = reference.partition(":")
    if not name or not attribute:
        raise ConfigError(
            f"component {reference!r} is not of the form module:attribute"
        )
    module = _module(files.root, name)
    found = getattr(module, attribute, None)
    if isinstance(found, kind):
        return found
    if found is None:
        names = [n for n, v in vars(module).items() if isinstance(v, kind)]
        near = nearest(attribute, names)
        raise ConfigError(f"{name} has no {attribute!r}; {kind.__name__}s: {near}")
    has = type(found).__name__
    raise ConfigError(f"{reference} is a {has}, not a {kind.__name__}")


def _module(root: Path, name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as cause:
        raise ConfigError(f"{name} cannot be imported: {_place(cause)}") from cause
    wanted = root.resolve().joinpath(*name.split("."))
    own = [wanted.with_suffix(".py"), wanted / "__init__.py"]
    file = Path(module.__file__ or "").resolve()
    if file not in own and any(path.exists() for path in own):
        raise ConfigError(
            f"{name} was imported from {file}, not from the app: two modules have this "
            "name; rename the app's"
        )
    return module


def _place(error: BaseException) -> str:
    """Return ``error`` in one line, with the last place in code outside of Python."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if "importlib" not in f.filename and f.filename != __file__
    ]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"
