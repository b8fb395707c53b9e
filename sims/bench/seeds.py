"""``fedcore bench seeds``: models of few integers, what they cost and what they learn.

The pool against the papers' seeds, a late join, a client's round, bytes on the wire,
and training curves on real text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, log10
from statistics import fmean, median

from sims.bench import byname, directions, joining, kilobytes, probes, ties
from sims.bench.curves import (
    FEDAVG,
    FERRET,
    FIRST_FRESH,
    FULL,
    GAUSSIAN,
    HADAMARD,
    LORA_FEDAVG,
    METHODS,
    MEZO,
    QUICK,
    SIGNS,
    Curve,
    Mark,
    Size,
    Tried,
    best_rates,
    curves,
    end_of,
)
from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row, skipped, versus
from sims.report.chart import Line, Lines

ABOUT = (
    "The papers' way is measured on a few seeded streams of normal numbers and "
    "reckoned for the rest, every one costs the same; the notes say how many.",
    "Curves: a 0.85 M-parameter LM, trained on Lewis Carroll, is tuned to parts of "
    "Shakespeare's plays, 20 clients, 2 a round, and judged by the loss on 200 rows of "
    "parts that nobody has. Batches of 8 x 32 tokens; the whole model is tuned but by "
    "LoRA-FedAvg (rank 8).",
    "Equal forward passes: a probe costs 2, a step of descent 3. Ferret takes four "
    "times the rounds, each a quarter as long.",
    "Step sizes: the best of three on another seed. The pools take MeZO's, Ferret "
    "takes FedAvg's.",
    "Costs per nat: passes, bytes or processor seconds over how far the loss fell, "
    "medians over seeds; lower is better. Bytes: of one client that takes part in "
    "every round, both ways, without the first model. In larger models the bytes of "
    "FedAvg and LoRA grow, those of pools and of Ferret do not.",
)
PASSES, BYTES, SECONDS = "passes/nat", "kB/nat", "s/nat"
COSTS: Mapping[str, Callable[[Mark], float]] = {
    PASSES: lambda mark: mark.passes,
    BYTES: lambda mark: (mark.up_bytes + mark.down_bytes) / 1e3,
    SECONDS: lambda mark: mark.cpu_s,
}
PAIRS = (  # ours, other, by what
    (HADAMARD, GAUSSIAN, (PASSES, SECONDS)),
    (HADAMARD, SIGNS, (PASSES, SECONDS)),
    (HADAMARD, MEZO, (PASSES, BYTES, SECONDS)),
    (HADAMARD, LORA_FEDAVG, (PASSES, BYTES, SECONDS)),
    (FERRET, LORA_FEDAVG, (PASSES, BYTES, SECONDS)),
    (FERRET, FEDAVG, (PASSES, BYTES, SECONDS)),
    (FERRET, HADAMARD, (PASSES, BYTES, SECONDS)),
)
THRIFTY = ((HADAMARD, LORA_FEDAVG), (FERRET, LORA_FEDAVG), (FERRET, FEDAVG))
FORWARD_ONLY = (MEZO, GAUSSIAN, SIGNS, HADAMARD)


@dataclass(frozen=True, slots=True)
class Found:
    """What came out, by method.

    Attributes:
        curves: one a seed.
        rates: the step sizes chosen.
    """

    curves: Mapping[str, Sequence[Curve]]
    rates: Mapping[str, float]

    def middle(self, name: str, figure: Callable[[Curve], float]) -> float:
        """Return the median of ``figure`` over seeds."""
        return median(map(figure, self.curves[name]))

    def work(self, ours: str, other: str) -> str:
        """Return what two methods did, in words."""
        passes = self.curves[ours][0][-1].passes
        rates = f"{self.rates[ours]:g} and {self.rates[other]:g}"
        return f"{passes:.0f} forward passes in all; step sizes {rates}"


def rows(options: Options) -> Iterator[Row]:
    """Measure, draw, and yield rows as they are ready."""
    yield from directions.rows(options)
    yield from ties.rows(options)
    yield from joining.rows(options)
    yield from probes.rows(options)
    yield from kilobytes.rows()
    yield from byname.rows(options)
    found = learnt(QUICK if options.quick else FULL, options)
    yield from curve_rows(found)
    for chart in charts(found):
        draw(options, chart)


BENCH = Bench("models of few integers: speed, bytes, and what they learn", ABOUT, rows)


def learnt(size: Size, options: Options) -> Found:
    """Choose step sizes, then train every method with fresh seeds."""
    if options.quick:
        middle = {name: m.rates[1] for name, m in METHODS.items() if m.rates}
        rates = {name: middle[m.like or name] for name, m in METHODS.items()}
    else:
        options.say("curves: step sizes")
        rates = best_rates(size)
    options.say(f"curves: {len(METHODS)} methods, {size.seeds} seeds")
    seeds = range(FIRST_FRESH, FIRST_FRESH + size.seeds)
    tries = [Tried(m, rates[n], s, size) for n, m in METHODS.items() for s in seeds]
    done = iter(curves(tries))
    return Found({name: [next(done) for _ in seeds] for name in METHODS}, rates)


def curve_rows(found: Found) -> Iterator[Row]:
    """Yield the rows of all pairs: cost per nat, and the loss at equal bytes."""
    for ours, other, units in PAIRS:
        for unit in units:
            yield row_of(ours, other, unit, found)
    for ours, other in THRIFTY:
        yield thrifty_row(ours, other, found)


def row_of(ours: str, other: str, unit: str, found: Found) -> Row:
    """Return what a nat costs two methods."""
    name, work = f"{ours} vs {other}, {unit}", found.work(ours, other)
    start = found.middle(ours, lambda curve: curve[0].loss)
    ends = [found.middle(who, end_of) for who in (ours, other)]
    pairs = list(zip(found.curves[ours], found.curves[other], strict=True))
    wins = sum(end_of(a) < end_of(b) for a, b in pairs)
    note = (
        f"loss {start:.3f} to {ends[0]:.3f} and {ends[1]:.3f}; "
        f"lower in {wins} of {len(pairs)} seeds"
    )
    if max(ends) >= start:
        return skipped(name, work, unit, f"the loss did not fall: {note}")
    per_nat = partial(_per_nat, COSTS[unit])
    costs = found.middle(ours, per_nat), found.middle(other, per_nat)
    return versus(name, work, *costs, unit, note)


def _per_nat(cost: Callable[[Mark], float], curve: Curve) -> float:
    """Return what a nat cost in ``curve``; infinite if the loss did not fall."""
    fall = curve[0].loss - end_of(curve)
    return cost(curve[-1]) / fall if fall > 0 else inf


def thrifty_row(ours: str, other: str, found: Found) -> Row:
    """Return both losses when ``other`` has sent no more than ``ours`` in all."""
    spent = COSTS[BYTES](found.curves[ours][0][-1])
    rounds = found.middle(other, lambda curve: len(_within(curve, spent)) - 1)
    theirs = found.middle(other, lambda curve: _within(curve, spent)[-1].loss)
    name, work = f"{ours} vs {other}, loss at equal bytes", found.work(ours, other)
    note = f"{spent:.0f} kB a client; {rounds:.0f} rounds of {other}"
    return versus(name, work, found.middle(ours, end_of), theirs, "nats", note)


def _within(curve: Curve, spent: float) -> Curve:
    """Return ``curve`` as far as no more than ``spent`` kB were sent."""
    return tuple(mark for mark in curve if COSTS[BYTES](mark) <= spent)


def charts(found: Found) -> Iterator[Lines]:
    """Return the curves over passes, bytes and seconds, means over seeds."""
    passes, seconds = COSTS[PASSES], COSTS[SECONDS]
    seen = found.curves
    compared = {n: c for n, c in seen.items() if n not in (GAUSSIAN, SIGNS)}
    probed = {name: seen[name] for name in FORWARD_ONLY}
    count = len(seen[HADAMARD])

    def chart(slug: str, what: str, x: str, lines: Sequence[Line]) -> Lines:
        note = f"Loss on held-out speakers, means over {count} seeds; lower is better."
        return Lines(f"bench-seeds-{slug}", what, note, x, "", tuple(lines))

    yield chart(
        "pools",
        "Forward passes alone: directions of a pool, or fresh ones",
        "forward passes of all clients",
        _lines(probed, passes),
    )
    yield chart(
        "passes",
        "Loss over forward passes; descent counts three a step",
        "forward passes of all clients",
        _lines(compared, passes),
    )
    yield chart(
        "bytes",
        "Loss over bytes of a client, both ways",
        "kB, powers of ten",
        _lines(compared, lambda mark: log10(COSTS[BYTES](mark)), since=1),
    )
    yield chart(
        "seconds",
        "Loss over processor time of all clients and the server",
        "seconds",
        _lines(compared, seconds),
    )


def _lines(
    found: Mapping[str, Sequence[Curve]], x: Callable[[Mark], float], since: int = 0
) -> Sequence[Line]:
    """Return one line a method from its mark ``since`` on, means over seeds."""
    rows = {
        name: list(zip(*seen, strict=False))[since:] for name, seen in found.items()
    }
    return [Line.of(n, [_mean(marks, x) for marks in row]) for n, row in rows.items()]


def _mean(marks: Sequence[Mark], x: Callable[[Mark], float]) -> tuple[float, float]:
    return fmean(map(x, marks)), fmean(mark.loss for mark in marks)
