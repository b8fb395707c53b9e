"""``fedcore sim sweep``: every combination of some settings, one run each.

The same command goes on where it was stopped: finished runs are kept, the one that
was cut short is resumed. All combinations are checked before the first one starts.
"""

import argparse
import hashlib
import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedcore.cli import STOPPED
from fedcore.config import Setting, Settings, dump, from_file, from_flags
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, FedError, StorageError
from sims.cli.look import draw, rank
from sims.cli.progress import Progress, progress_for
from sims.cli.tables import say, say_json, table
from sims.report.chart import number
from sims.report.write import write_page
from sims.runs.config import RunConfig, configured
from sims.runs.finding import summary
from sims.runs.folder import RunFolder, as_json, check_name, make_folder
from sims.runs.lock import is_held
from sims.runs.run import Data, prepare
from sims.runs.sitting import Ended, begin, go_on

TABLE = "sweep."
SEED = "run.seed"
PLAN = "sweep.json"
CELLS = "cells"
MOST_CELLS = 1000


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        name: of its folder.
        values: grid key -> value, as text.
    """

    name: str
    values: Mapping[str, str]
    config: RunConfig


def sweep(args: argparse.Namespace) -> int:
    """Run all cells; return 130 if stopped, 1 if one failed."""
    given = {} if args.config is None else from_file(Path(args.config))
    base = {k: s for k, s in given.items() if not k.startswith(TABLE)}
    grid = _grid(given, args.grid)
    cells = list(cells_of(grid, [base, from_flags(args.set)]))
    text = "".join(dump(cell.config) for cell in cells)
    usual = f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folder = Path(args.out) / (args.name or usual)
    if args.fresh:
        _forget(folder)
    _claim(folder, cells)
    progress = progress_for(json_lines=args.json, quiet=args.quiet)
    data: Data | None = None
    failed = False
    for index, cell in enumerate(cells, start=1):
        values = ", ".join(f"{key}={value}" for key, value in cell.values.items())
        progress.note(f"{index} of {len(cells)}: {values}")
        try:
            ended = _do(folder / CELLS / cell.name, cell, progress, data)
        except StorageError:
            raise  # the next cell would meet the same disk
        except FedError as error:
            failed = True
            sys.stderr.write(f"fedcore: {cell.name} failed: {error}\n")
            continue
        if ended is not None and ended.stopped:
            say(f"stopped in {cell.name}; the same command goes on from there")
            return STOPPED
        data = ended.data if ended is not None else data
    _tell(folder, cells, json_lines=args.json)
    return int(failed)


def _grid(given: Settings, flags: Sequence[str]) -> Mapping[str, Sequence[Setting]]:
    """Return the values to try of each key, from ``[sweep]`` and ``--grid``."""
    grid: dict[str, Sequence[Setting]] = {}
    for key, setting in given.items():
        if key.startswith(TABLE):
            if not isinstance(setting.value, list) or not setting.value:
                raise ConfigError(f"{key} must be a list of values ({setting.origin})")
            values = [Setting(v, setting.origin) for v in setting.value]
            grid[key.removeprefix(TABLE)] = values
    for key, setting in from_flags(flags, "--grid").items():
        texts = [text.strip() for text in str(setting.value).split(",")]
        grid[key] = [Setting(t, setting.origin, is_text=True) for t in texts]
    if not grid:
        raise ConfigError(
            "nothing to sweep over: add --grid strategy.name=fedavg,fedadam, or a "
            "table [sweep] with a list for each key"
        )
    return grid


def cells_of(
    grid: Mapping[str, Sequence[Setting]], base: Sequence[Settings]
) -> Iterable[Cell]:
    """Yield every combination of ``grid``, checked, the last key changing fastest.

    Raises:
        ConfigError: one of them cannot work, or there are too many.
    """
    combinations = list(itertools.product(*grid.values()))
    if len(combinations) > MOST_CELLS:
        raise ConfigError(f"{len(combinations)} combinations, above {MOST_CELLS}")
    for index, chosen in enumerate(combinations):
        settings = dict(zip(grid, chosen, strict=True))
        values = {key: str(setting.value) for key, setting in settings.items()}
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(values.values()))[:50]
        yield Cell(f"{index:03d}-{slug}", values, configured(*base, settings))


def _forget(folder: Path) -> None:
    """Remove an earlier sweep; anything else stays, and is refused later.

    Raises:
        ConfigError: a process is at work in it.
    """
    if not (folder / PLAN).exists():
        return
    for cell in (folder / CELLS).iterdir():
        if is_held(cell):
            raise ConfigError(f"another process is at work in {cell}: stop it first")
    shutil.rmtree(folder)


def _claim(folder: Path, cells: Sequence[Cell]) -> None:
    """Make the sweep's folder, or check that it is of the same sweep.

    Raises:
        ConfigError: another sweep, or something else, has this name.
    """
    check_name(folder.name)
    plan = as_json({cell.name: dict(cell.values) for cell in cells})
    if make_folder(folder):
        make_folder(folder / CELLS)
        RealDisk(folder).replace(PLAN, plan.encode())
    elif not (folder / PLAN).exists():
        raise ConfigError(f"{folder} exists and is no sweep: choose another --name")
    elif RealDisk(folder).read(PLAN) != plan.encode():
        raise ConfigError(
            f"{folder} holds another sweep: choose another --name, or add --fresh"
        )


def _do(path: Path, cell: Cell, progress: Progress, data: Data | None) -> Ended | None:
    """Run or finish one cell; return None if it is finished already."""
    folder = RunFolder(path)
    if not (path / "manifest.json").exists():
        make_folder(path)
        return begin(prepare(cell.config, data), folder, progress)
    manifest = folder.manifest()
    expected = hashlib.sha256(dump(cell.config).encode()).hexdigest()
    if manifest.config_sha256 != expected:
        raise ConfigError(f"{path} holds a run with other settings: choose --name")
    if manifest.status == "finished":
        progress.note(f"{cell.name} is done")
        return None
    return go_on(folder, progress, data)


def _tell(folder: Path, cells: Sequence[Cell], *, json_lines: bool) -> None:
    """Write reports and figures, and say how the cells compare."""
    done = {c.name: RunFolder(folder / CELLS / c.name) for c in cells}
    there = [run for run in done.values() if (run.path / "manifest.json").exists()]
    for run in there:
        write_page(run)
    draw(folder / "compare.html", there)
    draw(folder / "compare.png", there)
    values = sorted([summary(run) for run in there], key=rank)
    settings = {cell.name: cell.values for cell in cells}
    if json_lines:
        say_json(
            {"event": "cell", **value, "settings": settings[value["run"]]}
            for value in values
        )
        return
    keys = list(cells[0].values)
    rows = [
        [
            value["run"],
            *(settings[value["run"]][key] for key in keys),
            *(
                "-" if value[n] is None else f"{value[n]:.4f}"
                for n in ("accuracy", "loss")
            ),
            number(value["up_bytes"], "bytes"),
            number(value["wall_s"], "s"),
            value["status"],
        ]
        for value in values
    ]
    head = ["cell", *keys, "accuracy", "loss", "up", "time", "status"]
    say(table(head, rows))
    if means := over_seeds(values, settings):
        others = [key for key in keys if key != SEED]
        say(f"\n{table([*others, 'seeds', 'accuracy', '+/-'], means)}")
    say(str(folder / "compare.html"))


def over_seeds(
    values: Sequence[Mapping[str, Any]], settings: Mapping[str, Mapping[str, str]]
) -> list[list[str]]:
    """Return mean and sample standard deviation of accuracy over seeds, best first.

    Args:
        values: summaries of the cells.
        settings: cell -> grid key -> value.

    Returns:
        One row for each combination of the other keys: their values, the number of
        seeds, mean, deviation. Empty unless a combination has two seeds.
    """
    groups: dict[tuple[str, ...], list[float]] = {}
    for value in values:
        chosen = settings[value["run"]]
        if SEED in chosen and value["accuracy"] is not None:
            others = tuple(text for key, text in chosen.items() if key != SEED)
            groups.setdefault(others, []).append(value["accuracy"])
    many = {k: figures for k, figures in groups.items() if len(figures) > 1}
    best = sorted(many.items(), key=lambda pair: -mean(pair[1]))
    return [[*k, str(len(a)), f"{mean(a):.4f}", f"{stdev(a):.4f}"] for k, a in best]
