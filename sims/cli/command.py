"""``fedcore sim``: the researcher's commands. This file only says how they are called.

What they do is in ``train``, ``look`` (what was trained), ``start`` (what can be
trained) and ``sweep``; each is imported when it is needed.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from fedcore.cli import EVERYWHERE

Act = Callable[[argparse.Namespace], int]
RUNS = "runs"


class Sim:
    """The command ``fedcore sim``."""

    name = "sim"
    help = "train federations on this machine, and look at what came out"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the sub-commands."""
        chosen = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for name, (act, text, describe) in _ACTIONS.items():
            child = chosen.add_parser(
                name,
                help=text,
                description=f"{text[:1].upper()}{text[1:]}.",
                epilog=EVERYWHERE,
            )
            describe(child)
            child.set_defaults(_act=act, _leaf=child)

    def run(self, args: argparse.Namespace) -> int:
        """Do the chosen action."""
        module, _, name = args._act.partition(":")
        act: Act = getattr(import_module(module), name)
        return act(args)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="settings; defaults without it"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as run.rounds=5; may be repeated",
    )


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default=RUNS,
        metavar="FOLDER",
        help="folder of all runs (default: %(default)s)",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _report_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-report", action="store_true", help="write no report and no figures"
    )


def _one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run's name, a part of it, or its folder; default: the newest",
    )
    _out(parser)


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", default="run.toml", help="file to write (%(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="write another value than the default; may be repeated",
    )
    parser.add_argument(
        "--task", metavar="FILE.py", help="also write a task of your own to start from"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def _run(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument(
        "--name",
        help="last part of the folder's name (default: strategy and task)",
    )
    _out(parser)
    _json(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and stop"
    )
    _report_flag(parser)


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="default: the newest unfinished run"
    )
    _out(parser)
    _json(parser)
    _report_flag(parser)


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section",
        nargs="?",
        choices=SECTIONS,
        metavar="SECTION",
        help="list what there is to choose from instead, such as strategy",
    )
    _out(parser)
    _json(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    _json(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="names, parts of them, or folders"
    )
    _out(parser)
    _json(parser)
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="also draw the runs together: .svg, .png or .html",
    )


def _report(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    parser.add_argument(
        "--no-figures", action="store_true", help="write the page only, no PNG files"
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    _json(parser)


def _write(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    parser.add_argument(
        "--prompt",
        default="My lord,",
        metavar="TEXT",
        help="what to go on from (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=40,
        metavar="N",
        help="most tokens to write (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the draws (default: %(default)s)",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="draw nothing: always the likeliest token"
    )
    _json(parser)


def _sweep(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V1,V2,...",
        help="try every combination of these values; may be repeated",
    )
    parser.add_argument(
        "--name", help="name of the sweep's folder (default: from its settings)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what this sweep did before"
    )
    _out(parser)
    _json(parser)


def _catalog(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section",
        nargs="?",
        choices=SECTIONS,
        metavar="SECTION",
        help=f"one of {', '.join(SECTIONS)}; all without it",
    )
    parser.add_argument(
        "--keys", action="store_true", help="also say which settings each one has"
    )
    _json(parser)


def _mesh(parser: argparse.ArgumentParser) -> None:
    add = partial(parser.add_argument, type=int, metavar="N")
    add("--seeds", default=200, help="how many seeds (default: %(default)s)")
    add("--from", dest="start", default=0, help="the first (default: %(default)s)")
    add("--seed", help="play only this seed, and show it")
    add("--nodes", help="peers in each mesh")
    parser.add_argument(
        "--only",
        action="append",
        metavar="SCENE",
        help="play only this scene; may be repeated",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="how long things go wrong"
    )
    parser.add_argument(
        "--without",
        default="",
        metavar="NUMBERS",
        help="leave out these planned faults, such as 0-3,7",
    )
    parser.add_argument(
        "--calm",
        default="",
        metavar="NOISE",
        help="leave out noise: any of loss,duplicate,late",
    )
    parser.add_argument(
        "--trace", action="store_true", help="show the last events of each run"
    )
    _json(parser)


SECTIONS = (
    "task",
    "partition",
    "strategy",
    "trainer",
    "pacer",
    "privacy",
    "devices",
    "network",
    "availability",
)

_ACTIONS: Mapping[str, tuple[str, str, Callable[[Any], None]]] = {
    "init": ("sims.cli.start:init", "write a file of settings to start from", _init),
    "run": ("sims.cli.train:run", "train a federation and keep everything", _run),
    "resume": ("sims.cli.train:resume", "finish a run that was stopped", _resume),
    "list": ("sims.cli.look:list_runs", "list the runs", _list),
    "show": ("sims.cli.look:show", "show one run", _show),
    "compare": ("sims.cli.look:compare", "put runs side by side", _compare),
    "report": ("sims.cli.look:report", "write a run's report and figures", _report),
    "verify": ("sims.cli.train:verify", "do a run again and compare the bits", _verify),
    "write": ("sims.cli.writing:write", "let a run's language model write", _write),
    "sweep": ("sims.cli.sweep:sweep", "run every combination of some settings", _sweep),
    "mesh": ("sims.cli.mesh:mesh", "play meshes in which all goes wrong", _mesh),
    "catalog": ("sims.cli.start:catalog", "list what a run can be made of", _catalog),
}

COMMAND = Sim()
