"""``fedcore data``: which data sets there are, and fetching those that need it."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from clients.tasks.catalog import CATALOG, Entry, packaged
from fedcore.errors import ConfigError


def installed(data_dir: Path | None = None) -> Mapping[str, str]:
    """Return, for each task, the command that gets its data; "" if they are here.

    Args:
        data_dir: the data folder; None for the user's own.
    """
    return {
        name: "" if _here(name, entry, data_dir) else entry.get
        for name, entry in CATALOG.items()
    }


def _here(name: str, entry: Entry, data_dir: Path | None) -> bool:
    if not entry.file:
        from clients.tasks.store import found

        return found(name, str(data_dir or "")) is not None
    try:
        packaged(name)
    except ConfigError:
        return False
    return True


class Data:
    """The command ``fedcore data``."""

    name = "data"
    help = "list the data sets of the named tasks, and fetch them"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the sub-commands."""
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        listing = actions.add_parser("list", help="list tasks, their data and licences")
        listing.add_argument("--json", action="store_true", help="one object a line")
        fetch = actions.add_parser("get", help="fetch the data of one task")
        fetch.add_argument("task", metavar="NAME", help="such as mnist")
        where = actions.add_parser("path", help="print the data folder")
        for action, run in ((listing, _list), (fetch, _get), (where, _path)):
            action.add_argument("--dir", type=Path, help="the data folder to use")
            action.set_defaults(_leaf=action, _action=run)

    def run(self, args: argparse.Namespace) -> int:
        """Do what was asked and return 0.

        Raises:
            ConfigError: there is no such task.
            StorageError: the data cannot be fetched, read or written.
        """
        sys.stdout.write(args._action(args))
        return 0


def _list(args: argparse.Namespace) -> str:
    missing = installed(args.dir)
    if args.json:
        rows = (
            {"name": name, **asdict(entry), "installed": not missing[name]}
            for name, entry in CATALOG.items()
        )
        return "".join(json.dumps(row) + "\n" for row in rows)
    head = ("task", "examples", "owners", "licence of the data", "here, or how to get")
    body = [
        (
            name,
            f"{e.train} + {e.test}",
            e.owners or "-",
            e.licence,
            missing[name] or "here",
        )
        for name, e in CATALOG.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return "".join(_row(row, widths) for row in (head, *body))


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip() + "\n"


def _get(args: argparse.Namespace) -> str:
    from clients.tasks.store import KEPT, default_folder, get
    from fedcore.config import nearest

    name = args.task
    if name not in CATALOG:
        raise ConfigError(f"no task {name!r}; {nearest(name, CATALOG)}")
    if name in KEPT:
        return f"{name} is in {get(name, args.dir or default_folder())}\n"
    return f"{name} is in {packaged(name)}\n"


def _path(args: argparse.Namespace) -> str:
    from clients.tasks.store import default_folder

    return f"{args.dir or default_folder()}\n"


COMMAND = Data()
