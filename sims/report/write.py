"""The report of a run folder: ``report.html``, and ``figures/*.png`` beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedcore.config import from_toml
from fedcore.metrics import Row
from sims.report.chart import Chart, number
from sims.report.page import folded, page, table
from sims.report.story import charts_of
from sims.runs.finding import last, summary
from sims.runs.folder import Manifest, RunFolder

SHOWN_ROWS = 100


def write_page(folder: RunFolder) -> None:
    """Write ``report.html`` from what is in ``folder``, as far as the run got."""
    manifest, rows, clients = folder.manifest(), folder.rows(), folder.clients()
    value = summary(folder)
    facts = {
        f"held-out {name}": number(figure, "%" if name == "accuracy" else "")
        for name in ("accuracy", "loss", "perplexity")
        if (figure := last(rows, name)) is not None
    }
    facts |= {
        f"clients' own accuracy, {kind}": f"{number(found['mean'], '%')}, "
        f"worst tenth {number(found['worst_tenth'], '%')}"
        for kind, found in value["personal"].items()
    }
    facts |= {
        "rounds": f"{value['rounds']} of {manifest.rounds}",
        "clients": str(clients.count),
        "training examples": str(clients.examples),
        "sent to clients": carried(value, "down"),
        "sent back": carried(value, "up"),
        "simulated time": number(value["clock_s"], "s"),
        "computing time": number(value["wall_s"], "s"),
    }
    folder.write(
        "report.html",
        page(
            folder.name,
            f"{_what(folder)}; {_subtitle(manifest)}",
            facts,
            _charts(folder, rows),
            [
                _rounds(rows),
                folded("config.toml", folder.read("config.toml")),
                folded("manifest.json", folder.read("manifest.json")),
            ],
        ),
    )


def carried(value: Mapping[str, Any], way: str) -> str:
    """Return the bytes of a run (``summary``) one way: all, and what one answer took.

    Args:
        value: the summary.
        way: ``"down"`` to clients, or ``"up"`` from them.
    """
    each = number(value[f"answer_{way}_bytes"], "bytes")
    return f"{number(value[f'{way}_bytes'], 'bytes')}, {each} a client and round"


def write_figures(folder: RunFolder) -> None:
    """Write every chart as ``figures/<name>.png``."""
    from sims.report.figures import png  # matplotlib takes a while to load

    for chart in _charts(folder, folder.rows()):
        folder.write(f"figures/{chart.slug}.png", png(chart))


def _charts(folder: RunFolder, rows: Sequence[Row]) -> list[Chart]:
    clients = folder.clients()
    return charts_of(rows, clients.labels, clients.count, folder.personal())


def _what(folder: RunFolder) -> str:
    """Return what was trained, such as ``fedavg on digits, partition iid``."""
    given = from_toml(folder.read("config.toml"), "config.toml")
    strategy, task, partition = (
        given[f"{section}.name"].value for section in ("strategy", "task", "partition")
    )
    return f"{strategy} on {task}, partition {partition}"


def _subtitle(manifest: Manifest) -> str:
    ended = f", {manifest.error}" if manifest.error else ""
    model = f"; model {manifest.sha256[:16]}" if manifest.sha256 else ""
    return (
        f"{manifest.status}{ended}; started {manifest.started}; seed {manifest.seed}"
        f"{model}"
    )


def _rounds(rows: Sequence[Row]) -> str:
    figures = sorted({name for row in rows for name in row.eval})
    head = [
        "round",
        *(f"held-out {name}" for name in figures),
        "training loss",
        "clients",
        "refused",
        "lost",
    ]
    head += ["down", "up", "simulated", "computing", "sha256"]
    shown = rows[-SHOWN_ROWS:]
    title = "Rounds" if len(shown) == len(rows) else f"The last {SHOWN_ROWS} rounds"
    return table(title, head, [_cells(row, figures) for row in shown])


def _cells(row: Row, figures: Sequence[str]) -> list[str]:
    measured = [row.eval.get(name) for name in figures]
    return [
        str(row.round),
        *("" if value is None else f"{value:.4f}" for value in measured),
        "" if row.train_loss is None else f"{row.train_loss:.4f}",
        str(row.clients),
        str(sum(row.refused.values())),
        str(row.lost),
        number(row.down_bytes, "bytes"),
        number(row.up_bytes, "bytes"),
        number(row.clock_s, "s"),
        number(row.wall_s, "s"),
        row.sha256[:12],
    ]
