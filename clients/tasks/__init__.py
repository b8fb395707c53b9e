"""Named learning problems on real data, and how to bring your own.

``TASKS`` is the registry: name -> ``"module:function"``, imported when asked for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clients.tasks.catalog import CATALOG

if TYPE_CHECKING:
    from clients.tasks.dataset import Dataset

TASKS: dict[str, str] = {name: entry.function for name, entry in CATALOG.items()}


def load_task(
    name: str, settings: "Mapping[str, int | float | str | bool] | None" = None
) -> "Dataset":
    """Return the task called ``name``, or the one that the file ``name`` defines.

    Args:
        name: a key of ``TASKS``, or the path of a Python file with a function
            ``task() -> Dataset``; anything that ends in ``.py`` or holds a slash.
        settings: keyword arguments for the task's function, such as
            ``{"model": "cnn"}``; strings are read as the type that is asked for.

    Raises:
        ConfigError: no such task or setting, data that are not installed, or a
            file that cannot be used; says where and what to do.
    """
    from clients.tasks.loading import load

    return load(name, settings or {})
