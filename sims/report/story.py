"""The charts of one run, and of several side by side, from their rows of metrics."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from fedcore.metrics import Row
from sims.report.chart import Bars, Chart, Heat, Line, Lines, histogram

MOST_BARS = 60
MOST_CELLS = 1200  # of the table of labels

Labels = Mapping[str, Mapping[str, int]]  # peer -> label -> examples
Personal = Mapping[str, Mapping[str, Mapping[str, float]]]  # kind -> peer -> figures


def charts_of(
    rows: Sequence[Row],
    labels: Labels,
    clients: int = 0,
    served: Personal | None = None,
) -> list[Chart]:
    """Return the charts that tell the story of a run, in reading order.

    Args:
        rows: of the run.
        labels: who holds what, of the first clients.
        clients: in the federation; 0 counts only those that answered.
        served: each client's own figures, if they were measured.
    """
    measured = [personal(served)] if served else []
    return [
        accuracy(rows),
        loss(rows),
        *measured,
        traffic(rows),
        clock(rows),
        wall(rows),
        answers(rows),
        staleness(rows),
        participation(rows, labels, clients),
        label_table(labels),
    ]


NO_SHARES = {"loss", "examples", "perplexity"}


def accuracy(rows: Sequence[Row]) -> Lines:
    """Return the held-out figures that are shares, such as accuracy."""
    names = sorted({n for r in rows for n in r.eval} - NO_SHARES)
    return Lines(
        "accuracy",
        "Accuracy on held-out examples",
        "The one model, evaluated on examples that no client trains on.",
        "round",
        "%" if "accuracy" in names else "",
        tuple(Line.of(n, _evals(rows, n)) for n in names),
    )


def loss(rows: Sequence[Row]) -> Lines:
    """Return held-out and training loss, those of them that were measured."""
    lines = (
        Line.of("held-out", _evals(rows, "loss")),
        Line.of("training", ((r.round, r.train_loss) for r in rows)),
    )
    return Lines(
        "loss",
        "Loss",
        "Held-out: the one model. Training: mean over the clients' local batches.",
        "round",
        "",
        tuple(line for line in lines if line.points),
    )


def personal(served: Personal) -> Lines:
    """Return the clients' own accuracies, worst first: a curve of those served."""

    def curve(figures: Mapping[str, Mapping[str, float]]) -> list[tuple[float, float]]:
        values = sorted(f["accuracy"] for f in figures.values() if "accuracy" in f)
        last = max(1, len(values) - 1)
        return [(100 * i / last, value) for i, value in enumerate(values)]

    return Lines(
        "personal",
        "Accuracy of each client's model on its own kind of examples",
        "Clients from the worst served to the best. A flat curve serves all alike.",
        "share of the clients, percent",
        "%",
        tuple(Line.of(kind, curve(figures)) for kind, figures in served.items()),
    )


def _evals(rows: Sequence[Row], name: str) -> Iterable[tuple[float, float | None]]:
    return ((r.round, r.eval.get(name)) for r in rows)


def traffic(rows: Sequence[Row]) -> Lines:
    """Return bytes to and from clients so far."""

    def total(of: Callable[[Row], int]) -> Iterable[tuple[float, float]]:
        return zip((r.round for r in rows), accumulate(map(of, rows)), strict=True)

    return Lines(
        "bytes",
        "Bytes sent so far",
        "Down: models to clients. Up: their answers.",
        "round",
        "bytes",
        (
            Line.of("down", total(lambda r: r.down_bytes)),
            Line.of("up", total(lambda r: r.up_bytes)),
        ),
        from_zero=True,
    )


def clock(rows: Sequence[Row]) -> Lines:
    """Return the time each round took on the clock of the simulated world."""
    starts = [0.0, *(r.clock_s for r in rows)][: len(rows)]
    took = [(r.round, r.clock_s - s) for r, s in zip(rows, starts, strict=True)]
    return Lines(
        "clock",
        "Simulated time per round",
        "On the virtual clock: devices, network and waiting for peers.",
        "round",
        "s",
        (Line.of("virtual", took),),
        from_zero=True,
    )


def wall(rows: Sequence[Row]) -> Lines:
    """Return the time each round took on this machine."""
    return Lines(
        "wall",
        "Computing time per round",
        "Real seconds on this machine, evaluation included.",
        "round",
        "s",
        (Line.of("wall", ((r.round, r.wall_s) for r in rows)),),
        from_zero=True,
    )


def answers(rows: Sequence[Row]) -> Bars:
    """Return how many answers were folded, refused and lost."""
    step = max(1, -(-len(rows) // MOST_BARS))
    groups = [rows[i : i + step] for i in range(0, len(rows), step)]

    def heights(of: Callable[[Row], int]) -> tuple[float, ...]:
        return tuple(float(sum(map(of, group))) for group in groups)

    stacks = (
        ("folded", heights(lambda r: r.clients)),
        ("refused", heights(lambda r: sum(r.refused.values()))),
        ("lost", heights(lambda r: r.lost)),
    )
    each = "round" if step == 1 else f"{step} rounds"
    return Bars(
        "answers",
        f"Answers per {each}",
        "Folded into the model, refused by the gate, or lost on the way (stragglers).",
        "round",
        tuple(str(g[0].round) for g in groups),
        stacks,
    )


def staleness(rows: Sequence[Row]) -> Lines:
    """Return how many rounds behind the folded answers were."""
    return Lines(
        "staleness",
        "Staleness of answers",
        "Rounds folded between an answer's work and its own fold; 0 when synchronous.",
        "round",
        "",
        (
            Line.of("mean", ((r.round, r.staleness) for r in rows)),
            Line.of("largest", ((r.round, r.staleness_max) for r in rows)),
        ),
        from_zero=True,
    )


def participation(rows: Sequence[Row], labels: Labels, clients: int) -> Bars:
    """Return how often each client's answer was folded, or a histogram if many."""
    counts = Counter(peer for row in rows for peer in row.peers)
    peers = sorted({*counts, *labels})
    everybody = len(peers) >= clients
    if everybody and len(peers) <= MOST_BARS:
        bars, heights = [short(p) for p in peers], [float(counts[p]) for p in peers]
        label, title = "client", "Answers folded per client"
    else:
        never = [0] * (max(clients, len(peers)) - len(counts))
        bars, heights = histogram([*counts.values(), *never])
        label, title = "answers folded", "Clients by number of answers folded"
    return Bars(
        "participation",
        title,
        "Whose work went into the model; a fair draw gives similar counts.",
        label,
        tuple(bars),
        (("clients", tuple(heights)),),
    )


def label_table(labels: Labels) -> Heat:
    """Return how many examples of each label each client holds."""
    names = sorted({n for counts in labels.values() for n in counts}, key=_natural)
    shown = sorted(labels)[: max(1, min(40, MOST_CELLS // max(1, len(names))))]
    first = f" (the first {len(shown)})" if len(shown) < len(labels) else ""
    return Heat(
        "labels",
        f"Labels per client{first}",
        "Rows are clients, columns labels, darker is more examples: the label skew.",
        "label",
        tuple(short(p) for p in shown),
        tuple(names),
        tuple(tuple(float(labels[p].get(n, 0)) for n in names) for p in shown),
    )


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.lstrip("-").isdigit() else (0, text)


def short(peer: str) -> str:
    """Return a peer's name as an axis shows it: ``peer-000012`` as ``12``."""
    head, _, digits = peer.rpartition("-")
    return str(int(digits)) if head == "peer" and digits.isdigit() else peer[:8]


def comparison(runs: Mapping[str, Sequence[Row]]) -> list[Lines]:
    """Return held-out accuracy and loss of several runs."""

    def lines(slug: str, name: str, unit: str) -> Lines:
        return Lines(
            slug,
            f"{name.capitalize()} on held-out examples",
            "One line a run.",
            "round",
            unit,
            tuple(Line.of(run, _evals(rows, name)) for run, rows in runs.items()),
        )

    return [lines("accuracy", "accuracy", "%"), lines("loss", "loss", "")]
