"""``fedcore bench NAME``: measure, print rows, keep the page of results up to date."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedcore.errors import ConfigError
from sims.bench.frame import BENCHES, Options, Row, load_bench

PACKAGES = ("fedcore", "torch", "numpy", "flwr", "ray", "pfl")


class Command:
    """The command ``bench``."""

    name = "bench"
    help = "compare with other engines and with limits, in one run"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        add = parser.add_argument
        add("bench", nargs="?", metavar="NAME", help="what to measure; see --list")
        add("--list", action="store_true", help="list the benchmarks")
        add("--quick", action="store_true", help="at most 50 s; fewer peers, repeats")
        add("--json", action="store_true", help="one JSON object a line")
        add(
            "--out",
            metavar="DIR",
            help="write the section of DIR/benchmarks.md (full runs: default docs)",
        )
        add(
            "--peer-python",
            action="append",
            default=[],
            metavar="NAME=PATH",
            help="python of a peer that lives in its own environment; may repeat",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Measure and print.

        Raises:
            ConfigError: there is no such benchmark, or the page cannot be written.
        """
        if args.list or args.bench is None:
            return _print_list(args.json)
        bench = load_bench(args.bench)
        folder = _folder(args)
        figures = None if folder is None else folder / "img"
        options = Options(args.quick, pythons(args.peer_python), _say, figures)
        began, rows = time.monotonic(), list[Row]()
        for row in bench.rows(options):
            rows.append(row)
            _print(row, args.json)
        _keep(args, [*_facts(time.monotonic() - began), *bench.about], rows)
        return 0


COMMAND = Command()


def pythons(given: Sequence[str]) -> Mapping[str, str]:
    """Return the interpreters of ``NAME=PATH`` words by name.

    Raises:
        ConfigError: a word has another form, or its file does not exist.
    """
    chosen = dict(word.partition("=")[::2] for word in given)
    for name, path in chosen.items():
        if not name or not os.access(path, os.X_OK):
            raise ConfigError(
                f"--peer-python {name}={path} is no NAME=PATH of a python program"
            )
    return chosen


def _print_list(as_json: bool) -> int:
    for name in sorted(BENCHES):
        help_ = load_bench(name).help
        told = json.dumps({"bench": name, "help": help_})
        _out(told if as_json else f"{name:<12} {help_}")
    return 0


def _print(row: Row, as_json: bool) -> None:
    from sims.bench import page

    _out(json.dumps(row.plain()) if as_json else page.line(row))


def _folder(args: argparse.Namespace) -> Path | None:
    """Return where the page and the figures go; None for a quick look."""
    folder = args.out or (None if args.quick else "docs")
    return None if folder is None else Path(folder)


def _keep(args: argparse.Namespace, facts: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the page's section after a full run, or where the user asked for it."""
    from sims.bench import page

    folder = _folder(args)
    if folder is None:
        return
    command = f"fedcore bench {args.bench}" + (" --quick" if args.quick else "")
    text = page.section(args.bench, command, facts, rows)
    _say(f"written: {page.write(folder, args.bench, text)}")


def _facts(took_s: float) -> list[str]:
    """Return when, where and with what the rows were measured."""
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}"
    return [
        f"{time.strftime('%Y-%m-%d')}, {machine}, Python {platform.python_version()}, "
        f"{took_s:.0f} s",
        ", ".join(f"{name} {v}" for name, v in _versions().items()),
        "Medians of turns taken in one run; ratio above 1: ours is better.",
    ]


def _versions() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"# {text}\n")
