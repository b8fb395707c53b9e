"""Finding a task by name or file, and calling its function with settings."""

import inspect
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, get_type_hints

from clients.tasks import TASKS
from clients.tasks.checks import users_code
from clients.tasks.dataset import Dataset
from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.kinds import WrongKindError, converted, words_for

Setting = int | float | str | bool


class Recipe(Protocol):
    """A task's settings, as a dataclass that makes the task."""

    def dataset(self) -> Dataset:
        """Return the learning problem."""
        ...


Maker = Callable[..., Dataset | Recipe]

SEE = 'See docs/tasks.md, section "Your own task".'


def load(name: str, settings: Mapping[str, Setting]) -> Dataset:
    """Return the task ``name``; see ``clients.tasks.load_task``."""
    if name.endswith(".py") or "/" in name:
        return _from_file(Path(name), settings)
    made = recipe(name, settings)
    return made if isinstance(made, Dataset) else made.dataset()


def recipe(name: str, settings: Mapping[str, Setting]) -> Dataset | Recipe:
    """Return what the maker of the named task makes of ``settings``.

    Raises:
        ConfigError: there is no such task or setting.
    """
    if name not in TASKS:
        raise ConfigError(
            f"no task {name!r}; {nearest(name, TASKS)}; "
            "a task of your own is a path such as ./mytask.py"
        )
    module, _, function = TASKS[name].partition(":")
    maker: Maker = getattr(import_module(module), function)
    return maker(**_fitted(name, maker, settings))


def _from_file(path: Path, settings: Mapping[str, Setting]) -> Dataset:
    maker = _task_of(_module(path), path)
    chosen = _fitted(str(path), maker, settings)
    try:
        with users_code("task() failed", "Correct the file."):
            made = maker(**chosen)
    except ConfigError as error:  # what the Dataset refused names no file by itself
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(made, Dataset):
        raise ConfigError(
            f"task() of {path} returned a {type(made).__name__}, not a "
            f"clients.tasks.dataset.Dataset. {SEE}"
        )
    return made


def _module(path: Path) -> ModuleType:
    """Run the file as a module of its own and return it."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"the task file {path} {what}: give the path of a Python file"
        )
    name = f"fedcore_task_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the task file {path} is not a Python file: name it *.py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module they are defined in
    try:
        with users_code(f"the task file {path} cannot be run", "Correct the file."):
            spec.loader.exec_module(module)
    except ConfigError:
        del sys.modules[name]
        raise
    return module


def _task_of(module: ModuleType, path: Path) -> Maker:
    maker: Maker | None = getattr(module, "task", None)
    if not inspect.isfunction(maker):
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise ConfigError(
            f"{path} has no function `task`; {nearest('task', functions)}. {SEE}"
        )
    return maker


def _fitted(
    name: str, maker: Maker, settings: Mapping[str, Setting]
) -> dict[str, Setting]:
    """Return ``settings`` as keyword arguments that ``maker`` takes."""
    known = inspect.signature(maker).parameters
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"task {name!r} has no setting {key!r}; {nearest(key, known)}"
            )
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in settings:
            raise ConfigError(f"task {name!r} needs a value: --set task.{key}=...")
    with users_code(f"the settings of task {name!r} cannot be read", "Annotate them."):
        hints = get_type_hints(maker)
    return {
        key: _converted(name, key, value, hints[key]) if key in hints else value
        for key, value in settings.items()
    }


def _converted(name: str, key: str, value: Setting, hint: object) -> Any:
    """Return ``value`` as the annotated type; strings are read as from a flag."""
    try:
        return converted(hint, value, is_text=isinstance(value, str))
    except WrongKindError as wrong:
        raise ConfigError(
            f"task {name!r}: {key} must be {words_for(hint)}, not {wrong}"
        ) from None
