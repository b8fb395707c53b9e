"""Finding runs again, and what to say of each in one line.

Nothing here imports torch: looking must not take the seconds that torch needs.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fedcore.config import from_toml
from fedcore.errors import ConfigError
from fedcore.metrics import Row, plain
from sims.runs.folder import Manifest, RunFolder
from sims.runs.lock import is_held
from sims.runs.spread import Figures, spread


def all_runs(out: Path) -> list[RunFolder]:
    """Return the runs in ``out`` and in the sweeps there, oldest first."""
    found = [*out.glob("*/manifest.json"), *out.glob("*/cells/*/manifest.json")]
    return [RunFolder(file.parent) for file in sorted(found)]


def find(out: Path, name: str | None) -> RunFolder:
    """Return the run called ``name``: a path, a folder's name, or a part of only one.

    Without a name, the run that was started last.

    Raises:
        ConfigError: there is none, or several.
    """
    if name is None:
        return _newest(out)
    runs = {run.path.relative_to(out).as_posix(): run for run in all_runs(out)}
    same = [run for run in runs.values() if run.name == name]
    if len(same) == 1:
        return same[0]
    if Path(name).is_dir():
        RunFolder(Path(name)).manifest()  # tells if it is not a run
        return RunFolder(Path(name))
    close = [key for key in runs if name in key]
    if len(close) == 1:
        return runs[close[0]]
    if close:
        names = ", ".join(close[-5:])
        raise ConfigError(f"{name!r} is a part of {len(close)} runs: {names}; say more")
    known = [run.name for run in runs.values()]
    like = get_close_matches(name, known, 3, 0.4) or known[-3:]
    there = f"such as {', '.join(like)}" if like else "there is none"
    raise ConfigError(
        f"no run {name!r} in {out}, {there}; `fedcore sim list` shows all"
    )


def _newest(out: Path) -> RunFolder:
    runs = all_runs(out)
    if not runs:
        raise ConfigError(f"no runs in {out}: `fedcore sim run` makes one")
    return max(runs, key=lambda run: run.manifest().started)


def newest_unfinished(out: Path) -> RunFolder:
    """Return the unfinished run that was started last.

    Raises:
        ConfigError: there is none.
    """
    runs = [
        run
        for run in all_runs(out)
        if run.manifest().status != "finished" and not is_held(run.path)
    ]
    if not runs:
        raise ConfigError(
            f"no unfinished run in {out}: `fedcore sim list` shows the runs, "
            "`fedcore sim run` starts one"
        )
    return max(runs, key=lambda run: run.manifest().started)


def last(rows: Sequence[Row], name: str) -> float | None:
    """Return the newest held-out figure called ``name``."""
    values = (row.eval.get(name) for row in reversed(rows))
    return next((value for value in values if value is not None), None)


def differing(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Return the settings with several values in ``runs``: key -> one text a run.

    A run that has no such key, because it made another choice, says ``-``.
    """
    given = [from_toml(run.read("config.toml"), "config.toml") for run in runs]
    keys = list(dict.fromkeys(key for settings in given for key in settings))
    texts = {
        key: [str(g[key].value) if key in g else "-" for g in given] for key in keys
    }
    return {key: values for key, values in texts.items() if len({*values} - {"-"}) > 1}


def status(run: RunFolder, manifest: Manifest) -> str:
    """Return the run's status; ``"killed"`` if it says running and nobody works."""
    if manifest.status == "running" and not is_held(run.path):
        return "killed"
    return manifest.status


def summary(run: RunFolder) -> dict[str, Any]:
    """Return what tables and ``--json`` show of one run."""
    manifest, rows = run.manifest(), run.rows()
    down, up = sum(r.down_bytes for r in rows), sum(r.up_bytes for r in rows)
    answers = sum(row.clients for row in rows) or 1
    value: dict[str, Any] = plain(
        {
            "run": run.name,
            "status": status(run, manifest),
            "rounds": len(rows) and rows[-1].round,
            "of": manifest.rounds,
            "accuracy": last(rows, "accuracy"),
            "loss": last(rows, "loss"),
            "perplexity": last(rows, "perplexity"),
            "personal": _served(run),
            "down_bytes": down,
            "up_bytes": up,
            "answer_down_bytes": down / answers,  # for one client in one round
            "answer_up_bytes": up / answers,
            "clock_s": rows[-1].clock_s if rows else 0.0,
            "wall_s": max(manifest.wall_s, sum(row.wall_s for row in rows)),
            "seed": manifest.seed,
            "started": manifest.started,
            "sha256": manifest.sha256,
            "path": str(run.path),
        }
    )
    return value


def _served(run: RunFolder) -> dict[str, Figures]:
    """Return the spread of the accuracy of clients' own models, by kind of model."""
    spreads = {kind: spread(figures) for kind, figures in run.personal().items()}
    return {kind: found for kind, found in spreads.items() if found}
