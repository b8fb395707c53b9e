"""``fedcore sim``: the researcher's commands. This file only says how they are called.

What they do is in ``train``, ``look`` (what was trained), ``start`` (what can be
trained) and ``sweep``; each is imported when it is needed.
"""

import argparse
from collections.abc import Mapping
from functools import partial

from fedcore.subcommands import Part, Subcommands, json_flag, set_flag

RUNS = "runs"


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="settings; defaults without it"
    )
    set_flag(parser, "change a setting, such as run.rounds=5; may be repeated")


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default=RUNS,
        metavar="FOLDER",
        help="folder of all runs (default: %(default)s)",
    )


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
    set_flag(parser, "write another value than the default; may be repeated")
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
    json_flag(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and stop"
    )
    _report_flag(parser)


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="default: the newest unfinished run"
    )
    _out(parser)
    json_flag(parser)
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
    json_flag(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    json_flag(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="names, parts of them, or folders"
    )
    _out(parser)
    json_flag(parser)
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
    json_flag(parser)


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
    json_flag(parser)


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
    json_flag(parser)


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
    json_flag(parser)


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
    json_flag(parser)


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

PARTS: Mapping[str, Part] = {
    "init": ("start:init", "write a file of settings to start from", _init),
    "run": ("train:run", "train a federation and keep everything", _run),
    "resume": ("train:resume", "finish a run that was stopped", _resume),
    "list": ("look:list_runs", "list the runs", _list),
    "show": ("look:show", "show one run", _show),
    "compare": ("look:compare", "put runs side by side", _compare),
    "report": ("look:report", "write a run's report and figures", _report),
    "verify": ("train:verify", "do a run again and compare the bits", _verify),
    "write": ("writing:write", "let a run's language model write", _write),
    "sweep": ("sweep:sweep", "run every combination of some settings", _sweep),
    "mesh": ("mesh:mesh", "play meshes in which all goes wrong", _mesh),
    "catalog": ("start:catalog", "list what a run can be made of", _catalog),
}

COMMAND = Subcommands(
    "sim",
    "train federations on this machine, and look at what came out",
    PARTS,
    "sims.cli",
)
