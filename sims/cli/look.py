"""``fedcore sim list``, ``show``, ``compare`` and ``report``: what was trained.

Nothing here imports torch: looking must not take the seconds that torch needs.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.disk import RealDisk
from fedcore.errors import ConfigError
from fedcore.metrics import Row
from sims.cli.tables import pairs, say, say_json, table
from sims.report.chart import Lines, number
from sims.report.page import page
from sims.report.page import table as page_table
from sims.report.story import comparison
from sims.report.svg import alone
from sims.report.write import carried, write_figures, write_page
from sims.runs.finding import all_runs, differing, find, summary
from sims.runs.folder import RunFolder

SHOWN_ROUNDS = 10
HEAD = (
    *("run", "status", "rounds", "accuracy", "loss"),
    *("own", "worst tenth"),  # accuracy of clients' models on examples like theirs
    *("down", "up", "time"),
)


def list_runs(args: argparse.Namespace) -> int:
    """List the runs, oldest first; or what a section can be."""
    if args.section:
        from sims.cli.start import list_section  # imports torch

        return list_section(args.section, as_json=args.json)
    found = [summary(run) for run in all_runs(Path(args.out))]
    values = sorted(found, key=lambda value: str(value["started"]))
    if args.json:
        say_json(values)
    elif values:
        say(overview(values))
    else:
        say(f"no runs in {args.out}: `fedcore sim run` makes one")
    return 0


def overview(values: Sequence[Mapping[str, Any]]) -> str:
    """Return one line a run."""
    return table(HEAD, [_line(value) for value in values])


def _line(value: Mapping[str, Any]) -> list[str]:
    own = value["personal"].get("as-sent", {})
    return [
        value["run"],
        value["status"],
        f"{value['rounds']}/{value['of']}",
        figure(value["accuracy"]),
        figure(value["loss"]),
        *(figure(own.get(name)) for name in ("mean", "worst_tenth")),
        number(value["down_bytes"], "bytes"),
        number(value["up_bytes"], "bytes"),
        number(value["wall_s"], "s"),
    ]


def figure(value: float | None) -> str:
    """Return a measured figure, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def show(args: argparse.Namespace) -> int:
    """Show one run: what it is, how it ended, its last rounds."""
    folder = find(Path(args.out), args.run)
    value, rows = summary(folder), folder.rows()
    if args.json:
        say_json([{**value, "rows": [row.json() for row in rows]}])
        return 0
    manifest = folder.manifest()
    facts = {
        "run": folder.name,
        "status": value["status"],
        "error": manifest.error,
        "started": manifest.started,
        "rounds": f"{value['rounds']} of {manifest.rounds}",
        "seed": str(manifest.seed),
        "sha256": manifest.sha256,
        "data": manifest.data_sha256,
        "config": manifest.config_sha256,
        "git": manifest.git,
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
        "sent to clients": carried(value, "down") if rows else "",
        "sent back": carried(value, "up") if rows else "",
        "path": str(folder.path),
    }
    facts |= {
        f"own accuracy, {kind}": f"mean {figure(found['mean'])}, "
        f"worst tenth {figure(found['worst_tenth'])}"
        for kind, found in value["personal"].items()
    }
    say(pairs({label: text for label, text in facts.items() if text}))
    if rows:
        say(f"\n{_rounds(rows[-SHOWN_ROUNDS:])}")
    return 0


def _rounds(rows: Sequence[Row]) -> str:
    figures = sorted({name for row in rows for name in row.eval})
    head = ["round", *figures, "training loss", "clients", "refused", "lost"]
    head += ["down", "up", "time"]
    return table(
        head,
        [
            [
                str(row.round),
                *(figure(row.eval.get(name)) for name in figures),
                figure(row.train_loss),
                str(row.clients),
                str(sum(row.refused.values())),
                str(row.lost),
                number(row.down_bytes, "bytes"),
                number(row.up_bytes, "bytes"),
                number(row.wall_s, "s"),
            ]
            for row in rows
        ],
    )


def compare(args: argparse.Namespace) -> int:
    """Put runs side by side, best accuracy first."""
    found = [find(Path(args.out), name) for name in args.runs]
    folders = sorted(found, key=lambda folder: rank(summary(folder)))
    values, settings = [summary(f) for f in folders], differing(folders)
    if args.json:
        say_json(
            {**value, "settings": {key: texts[i] for key, texts in settings.items()}}
            for i, value in enumerate(values)
        )
    else:
        say(overview(values))
        if settings:
            say(f"\n{table(*_differences(folders, settings))}")
    if args.figure:
        draw(Path(args.figure), folders)
        if not args.json:
            say(args.figure)
    return 0


def rank(value: Mapping[str, Any]) -> tuple[float, float]:
    """Return what sorts summaries: the best accuracy first, then the lowest loss."""
    accuracy, loss = value["accuracy"], value["loss"]
    return (
        -(accuracy if accuracy is not None else -1.0),
        loss if loss is not None else float("inf"),
    )


def _differences(
    folders: Sequence[RunFolder], settings: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of the settings that differ."""
    head = ["setting", *(folder.name for folder in folders)]
    return head, [[key, *texts] for key, texts in settings.items()]


def draw(file: Path, folders: Sequence[RunFolder]) -> None:
    """Draw runs together into ``file``, by its ending: .svg, .png or .html.

    Raises:
        ConfigError: it ends in none of these.
    """
    charts = comparison({folder.name: folder.rows() for folder in folders})
    match file.suffix:
        case ".html":
            content = _page(folders, charts).encode()
        case ".svg":
            content = alone(charts[0]).encode()
        case ".png":
            from sims.report.figures import png  # matplotlib takes a while to load

            content = png(charts[0])
        case other:
            raise ConfigError(f"cannot draw a {other!r} file: use .svg, .png or .html")
    RealDisk(file.parent).replace(file.name, content)


def _page(folders: Sequence[RunFolder], charts: Sequence[Lines]) -> str:
    """Return the page that compares ``folders``."""
    best = sorted(folders, key=lambda folder: rank(summary(folder)))
    lines = [_line(summary(folder)) for folder in best]
    parts = [page_table("Runs, best first", HEAD, lines)]
    if settings := differing(best):
        head, rows = _differences(best, settings)
        parts.append(page_table("Settings that differ", head, rows))
    return page("Comparison", f"{len(best)} runs", {}, charts, parts)


def report(args: argparse.Namespace) -> int:
    """Write a run's report again."""
    folder = find(Path(args.out), args.run)
    write_page(folder)
    if not args.no_figures:
        write_figures(folder)
    say(str(folder.path / "report.html"))
    return 0
