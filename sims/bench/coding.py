"""``fedcore bench coding``: gradient coding against stragglers, and what it costs.

First a model of run time on delays of 256 workers, each scheme at the parameters that
are best in hindsight; then how long decoding takes and how many digits it loses; then
whole federations on the virtual clock.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sims.bench.delays import PUBLISHED, Delays, drawn, facts_of
from sims.bench.federations import federation_rows
from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row, middle, versus
from sims.bench.schemes import (
    GC,
    OURS,
    SR,
    UNCODED,
    Best,
    M,
    best,
    candidates,
    crossing,
    table,
)
from sims.draws import normals
from sims.report.chart import Line, Lines
from strategies.coding.codes import Kind, code_of, weights
from strategies.coding.machine import mask_of

COSTS = (0.0, 0.56, 1.12, 2.2, 4.0, 8.0)
QUICK_COSTS = (1.12, 8.0)
NUMBERS = 1000  # of a gradient that is decoded

ABOUT = (
    "Delays are drawn to agree with the published facts of 256 workers of a cloud "
    "(first row). c is the seconds that one worker would compute for a whole job; "
    "every scheme has the parameters that are best on the very trace, and pays for "
    "its last rounds.",
    "GC, SR-SGC and M-SGC count answers, and end no round before twice the time of its "
    "first answer (μ = 1), as where Krishnan et al. compare them. Ours have grouped "
    "codes, of which s + 1 workers stand in for each other, and the μ that is best. "
    "Plain gradient coding as first published has μ = 0: see the rows on what does it.",
    "A scheme with delay T trains T + 1 models at once: its seconds a job are those "
    "of all of them together. The federations train one model, whose gradients are up "
    "to T rounds old; there a straggler is not called off, and misses rounds until it "
    "is done.",
)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    delays = drawn(30 if options.quick else 90)
    yield trace_row(delays)
    yield from table_rows(options, delays)
    yield from decoding_rows()
    yield from federation_rows(options)


BENCH = Bench(
    "seconds a job with gradient coding, SR-SGC and M-SGC, and decoding", ABOUT, rows
)


def trace_row(delays: Delays) -> Row:
    """Return the row that compares the drawn delays with what is published."""
    ours, theirs = facts_of(delays), PUBLISHED
    note = (
        f"p99 {ours.p99_s:.2f} ({theirs.p99_s:.2f}) s; {ours.fewest} to {ours.most} "
        f"({theirs.fewest} to {theirs.most}) stragglers a round; {ours.single:.0%} "
        f"({theirs.single:.0%}) of bursts last one round. Published figures as other"
    )
    work = f"{delays.shape[0]} rounds x {delays.shape[1]} workers"
    name, median = "delays drawn: median", (ours.median_s, theirs.median_s)
    return Row(name, work, *median, None, "s", note)


def table_rows(options: Options, delays: Delays) -> Iterator[Row]:
    """Yield seconds a job by cost of computing, and where schemes cross."""
    costs = QUICK_COSTS if options.quick else COSTS
    found: dict[float, Mapping[str, Best]] = {}
    for cost in costs:
        options.say(f"c = {cost:g} s: {delays.shape[0]} rounds")
        found[cost] = table(delays, cost, options.quick)
        plain = found[cost][UNCODED].job_s
        for name, known in found[cost].items():
            if name != UNCODED:
                title = f"c = {cost:g} s: {name} vs uncoded"
                yield versus(title, known.told, known.job_s, plain, "s/job")
    yield from crossing_rows(costs, found)
    yield from apart_rows(delays, found[1.12], options.quick)
    draw(options, chart(costs, found))


def crossing_rows(
    costs: Sequence[float], found: Mapping[float, Mapping[str, Best]]
) -> Iterator[Row]:
    """Yield the cost of computing from which one scheme beats another."""

    def curve(name: str) -> list[float]:
        return [found[cost][name].job_s for cost in costs]

    pairs = [(SR, GC), (M, GC), (SR + OURS, GC + OURS), (M + OURS, GC + OURS)]
    for ours, other in [*pairs, (M, GC + OURS)]:
        cost = crossing(costs, curve(ours), curve(other))
        where = "never here" if cost is None else f"from c = {cost:.2g} s on"
        work = f"c up to {costs[-1]:g} s, between the costs above by a straight line"
        name, note = f"{ours} beats {other}", where
        yield Row(name, work, cost, None, None, "s", note)


def apart_rows(delays: Delays, found: Mapping[str, Best], quick: bool) -> Iterator[Row]:
    """Yield what the code and the slack do each by itself."""
    plain, workers = found[GC].job_s, delays.shape[1]
    grouped = best(candidates(GC, workers, "grouped", quick), delays, 1.12)
    eager = best(candidates(GC, workers, "cyclic", quick), delays, 1.12, (0.0,))
    for name, other in (("only the grouped code", grouped), ("only μ = 0", eager)):
        title = f"c = 1.12 s: GC, {name} vs GC"
        yield versus(title, other.told, other.job_s, plain, "s/job")


def chart(costs: Sequence[float], found: Mapping[float, Mapping[str, Best]]) -> Lines:
    """Return the figure of seconds a job by cost of computing."""
    names = found[costs[0]]
    lines = [Line.of(n, [(c, found[c][n].job_s) for c in costs]) for n in names]
    return Lines(
        "bench-coding-seconds",
        "Seconds a job, every scheme at its best",
        "Lower is better. Published schemes wait for twice the quickest answer; ours "
        "end a round as soon as that pays.",
        "seconds that one worker computes for a whole job",
        "s",
        tuple(lines),
    )


def decoding_rows() -> Iterator[Row]:
    """Yield how long it takes to decode, and how many digits that costs."""
    n, s = 256, 15
    kinds: tuple[Kind, ...] = ("grouped", "cyclic", "random")
    ours, cyclic, random = (Decoded.of(n, s, kind) for kind in kinds)
    work = f"{n} workers, {s} of them away, weights worked out"
    yield versus("decode: grouped vs cyclic", work, ours.ms, cyclic.ms, "ms")
    yield versus("decode: grouped vs random", work, ours.ms, random.ms, "ms")
    work = f"{n} workers, {s} away, float32 answers"
    note = "where s + 1 does not divide n; the random code is the paper's"
    odd = [Decoded.of(n, 14, kind) for kind in kinds]
    for other in (cyclic, random):
        name = f"error: grouped vs {other.kind}"
        yield versus(name, work, ours.error, other.error, "of the gradient")
    for other in odd[1:]:
        name = f"error: grouped vs {other.kind}, s = 14"
        error = odd[0].error
        yield versus(name, work, error, other.error, "of the gradient", note)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What decoding took, and its greatest error as a share of the gradient."""

    kind: Kind
    ms: float
    error: float

    @classmethod
    def of(cls, n: int, s: int, kind: Kind, patterns: int = 5) -> "Decoded":
        """Decode random patterns of s absent workers."""
        code = code_of(n, s, kind)
        parts = normals(n * NUMBERS, "gradients").reshape(n, NUMBERS)
        sent = np.matmul(code.matrix, parts).astype(np.float32)
        whole = parts.sum(0)
        times_ms, errors = list[float](), list[float]()
        for pattern in range(patterns):
            order = np.argsort(normals(n, "away", n, s, pattern))
            present = mask_of(order[s:].tolist())
            start_s = time.perf_counter()
            a = weights(code, present)
            times_ms.append(1e3 * (time.perf_counter() - start_s))
            off = np.abs(a @ sent.astype(np.float64) - whole).max()
            errors.append(float(off / np.abs(whole).max()))
        return cls(kind, middle(times_ms), max(errors))
