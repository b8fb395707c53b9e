"""``fedcore sim run``, ``resume`` and ``verify``: the commands that train."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fedcore.cli import STOPPED
from fedcore.config import dump
from fedcore.errors import ConfigError
from fedcore.metrics import Row
from fedcore.params import size_bytes
from sims.cli.command import RUNS
from sims.cli.progress import Progress, progress_for
from sims.cli.tables import pairs, say, say_json
from sims.report.chart import number
from sims.report.write import write_figures, write_page
from sims.runs.config import RunConfig, read
from sims.runs.finding import find, newest_unfinished, summary
from sims.runs.folder import RunFolder, new_folder
from sims.runs.run import Setup, Watcher, prepare, simulate
from sims.runs.sitting import (
    Ended,
    begin,
    check_same_data,
    go_on,
    stored_config,
    versions,
)


def run(args: argparse.Namespace) -> int:
    """Train a new run; return 130 if it was stopped."""
    setup = prepare(read(Path(args.config) if args.config else None, args.set))
    if args.dry_run:
        _tell_plan(setup, json_lines=args.json)
        return 0
    name = args.name or usual_name(setup.config)
    folder = new_folder(Path(args.out), name, datetime.now())
    return _told(begin(setup, folder, _progress(args)), args)


def resume(args: argparse.Namespace) -> int:
    """Finish a run that was stopped; return 130 if it is stopped again."""
    out = Path(args.out)
    folder = find(out, args.run) if args.run else newest_unfinished(out)
    return _told(go_on(folder, _progress(args)), args)


def verify(args: argparse.Namespace) -> int:
    """Do a run again, in memory; return 1 if any round has other bits."""
    folder = find(Path(args.out), args.run)
    recorded = folder.rows()
    differs = first_difference(folder, recorded, _progress(args))
    value = {
        "run": folder.name,
        "rounds": len(recorded),
        "same": differs is None,
        "first_different_round": differs and differs[0].round,
        "recorded": (differs[0] if differs else recorded[-1]).sha256,
        "now": (differs[1] if differs else recorded[-1]).sha256,
    }
    if args.json:
        say_json([value])
    elif differs is None:
        say(f"{folder.name}: {len(recorded)} rounds have the same bits")
        say(f"sha256 {recorded[-1].sha256}")
    else:
        old, new = differs
        say(
            f"{folder.name}: round {old.round} differs: recorded {old.sha256}, "
            f"now {new.sha256}\n{_reason(folder)}"
        )
    return int(differs is not None)


def usual_name(config: RunConfig) -> str:
    """Return the name of a run whose user gave none: strategy and task."""
    strategy = type(config.strategy).__name__.lower()
    task = Path(config.task.name).stem
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"{strategy}-{task}")[:60]


def _progress(args: argparse.Namespace) -> Progress:
    return progress_for(json_lines=args.json, quiet=args.quiet)


def _tell_plan(setup: Setup, *, json_lines: bool) -> None:
    """Say what a run would do, for ``--dry-run``."""
    if json_lines:
        config = tomllib.loads(dump(setup.config))
        say_json([{"event": "plan", **sizes(setup), "config": config}])
    else:
        say(pairs(described(setup)))


def sizes(setup: Setup) -> dict[str, int]:
    """Return the amounts of a run that is not started yet."""
    held = sorted(task.examples for task in setup.tasks.values())
    pacer = setup.config.pacer
    return {
        "training_examples": len(setup.dataset.train[0]),
        "held_out_examples": len(setup.dataset.test[0]),
        "clients": len(held),
        "fewest_examples": held[0],
        "median_examples": held[len(held) // 2],
        "most_examples": held[-1],
        "parameters": sum(t.numel() for t in setup.start.values()),
        "model_bytes": size_bytes(setup.start),
        "rounds": setup.config.run.rounds,
        "answers_per_round": getattr(pacer, "cohort", getattr(pacer, "size", 1)),
    }


PARTS = (
    "partition",
    "strategy",
    "trainer",
    "privacy",
    "pacer",
    "devices",
    "network",
    "availability",
)


def described(setup: Setup) -> Mapping[str, str]:
    """Return what a run would do, for people: label -> text."""
    config, n = setup.config, sizes(setup)
    return {
        "task": f"{config.task.name}: {n['training_examples']} training and "
        f"{n['held_out_examples']} held-out examples",
        "clients": f"{n['clients']}, {n['fewest_examples']} to {n['most_examples']} "
        f"examples each (median {n['median_examples']})",
        "model": f"{n['parameters']} parameters, {number(n['model_bytes'], 'bytes')}",
        **{part: repr(getattr(config, part)) for part in PARTS},
        "rounds": f"{n['rounds']}, about {n['answers_per_round']} answers each, "
        f"{number(n['rounds'] * n['answers_per_round'] * n['model_bytes'], 'bytes')} "
        "of models each way in all",
    }


def _told(ended: Ended, args: argparse.Namespace) -> int:
    """Say how a sitting ended, then write the report; return the exit code."""
    folder, path = ended.folder, ended.folder.path
    value = summary(folder)
    if args.json:
        say_json([{"event": "end", **value}])
    elif ended.stopped:
        say(f"stopped after round {value['rounds']}; go on with:")
        say(f"  fedcore sim resume {folder.name}{_out_flag(args)}")
    else:
        say(_result_line(value))
        for kind, own in value["personal"].items():
            mean, worst = own["mean"], own["worst_tenth"]
            say(f"clients' own accuracy, {kind}: {mean:.4g}, worst tenth {worst:.4g}")
        say(f"sha256 {value['sha256']}")
        say(str(path))
    if not (ended.stopped or args.no_report):
        write_page(folder)
        write_figures(folder)
        if not args.json:
            say(f"{path / 'report.html'}")
    return STOPPED if ended.stopped else 0


def _out_flag(args: argparse.Namespace) -> str:
    return "" if args.out == RUNS else f" --out {shlex.quote(args.out)}"


def _result_line(value: Mapping[str, Any]) -> str:
    figures = [
        f"{name} {value[name]:.4g}"
        for name in ("accuracy", "loss", "perplexity")
        if value[name] is not None
    ]
    took = number(value["wall_s"], "s")
    return f"{', '.join(figures)} after {value['rounds']} rounds, in {took}"


def first_difference(
    folder: RunFolder, recorded: Sequence[Row], progress: Progress
) -> tuple[Row, Row] | None:
    """Return the first round with other bits, as recorded and as of now; or None.

    Raises:
        ConfigError: there is no round yet, or configuration or data changed.
    """
    if not recorded:
        raise ConfigError(f"{folder.name} has no finished round to verify")
    setup = prepare(stored_config(folder))
    check_same_data(setup, folder.manifest())
    old = {row.round: row for row in recorded}
    last, seen = recorded[-1].round, _Seen(old, progress)
    watcher = Watcher(
        seen.row,
        progress.note,
        stop=lambda: bool(seen.different) or seen.done >= last,
        evaluated=False,
        begin=lambda done: progress.start(f"verify {folder.name}", done, last),
    )
    try:
        simulate(setup, watcher)
    finally:
        progress.end()
    return seen.different[0] if seen.different else None


@dataclass
class _Seen:
    """Compares rows, as they come, with those recorded."""

    recorded: Mapping[int, Row]
    progress: Progress
    done: int = 0
    different: list[tuple[Row, Row]] = field(default_factory=list)

    def row(self, row: Row) -> None:
        self.done = row.round
        self.progress.row(row)
        old = self.recorded[row.round]
        if row.sha256 != old.sha256:
            self.different.append((old, row))


def _reason(folder: RunFolder) -> str:
    """Return what differs between the run's programs and ours, as likely causes."""
    then, now = folder.manifest().versions, versions()
    changed = [
        f"{name} {then.get(name, '-')} -> {text}"
        for name, text in now.items()
        if then.get(name) != text
    ]
    if changed:
        return f"since then: {', '.join(changed)}"
    return "versions are the same: another processor, or the run's files were changed"
