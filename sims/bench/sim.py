"""``fedcore bench sim``: the simulator against other engines and the plain loop.

Every engine does the same work from the same first weights, in its own process with
one thread per worker, and takes turns with the others. Evaluation is off while the
clock runs. One judge measures the accuracy of the weights that each ends with.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from sims.bench.case import Case, write_data
from sims.bench.contest import Contest, Result, Turns
from sims.bench.examples import digits, images
from sims.bench.frame import Bench, Options, Row, skipped, versus
from sims.bench.peers.known import (
    ALONE,
    FEDJAX,
    FLOWER,
    LOOP,
    LOOP_2,
    OTHERS,
    OURS,
    PFL,
    VMAP,
    VMAP_2,
)
from sims.bench.process import Peer
from sims.bench.shell import shell_rows

QUICK_S = 34.0  # in a quick run, what would begin later than this is left out
SHELL_S = 4.0  # so much later may the last measurement begin; it is short
MEMORY_LIMIT_GB = 1.5
SIZES = (10, 100, 1_000, 10_000)


ABOUT = (
    "Same first weights, data and work; one process per engine, which take turns; the "
    "first round, which pays for start-up, is left out, and so is evaluation.",
    "One thread per process. Engines of one process are compared with one worker of "
    "ours, those that use both cores with two. FedJAX takes more than one core "
    "whatever it is told.",
    "Every engine draws its own cohorts and orders of rows: over seeds, accuracies of "
    "one engine differ by about 0.5 points (standard deviation on mlp-small).",
    "Flower's start is in the row of the first result only; its rounds are those of "
    "run_simulation, which is quicker than flwr run.",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One case, and the engines that are compared with ours on it.

    Attributes:
        full: turns in a full run.
        quick: turns in a quick run.
        full_only: engines left out of a quick run.
    """

    case: Case
    peers: Sequence[Peer]
    full: Turns
    quick: Turns
    full_only: Sequence[Peer] = ()


def events(folder: str) -> list[Event]:
    """Return the cases, in the order in which they are run."""
    rare = (VMAP, VMAP_2, PFL, FEDJAX)
    mlp = Case("mlp-big", "mlp", 100, 10, 600, folder)
    no_op = Case("no-op", "none", 100, 100, 1, folder)
    tiny = Case("tiny", "tiny", 100, 100, 100, folder, batch=20, epochs=2)
    cnn = Case("cnn", "cnn", 100, 10, 600, folder)
    small = Case("mlp-small", "mlp", 1_000, 10, 60, folder)
    return [
        Event(mlp, OTHERS, Turns(6, 4), Turns(3, 2), rare),
        Event(no_op, [FLOWER], Turns(6, 6), Turns(3, 3)),
        Event(tiny, [LOOP, VMAP, LOOP_2, FLOWER], Turns(5, 5), Turns(2, 2), rare),
        Event(small, OTHERS, Turns(6, 12), Turns(3, 6), (*rare, FLOWER)),
        Event(cnn, OTHERS, Turns(5, 1), Turns(1, 1), (*rare, LOOP_2, FLOWER)),
    ]


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    end_s = time.monotonic() + (QUICK_S if options.quick else inf)
    with tempfile.TemporaryDirectory(prefix="fedcore-bench-") as folder:
        with Contest(options, folder) as contest:
            contest.start(_engines(options))  # they load while we write
            write_data(folder, "tiny", digits())
            data, about = images()
            write_data(folder, "image", data)
            for event in events(folder):
                late = time.monotonic() > end_s
                yield from event_rows(contest, event, about, late)
            if time.monotonic() < end_s:
                yield from flat_rows(contest, folder)
        if time.monotonic() < end_s:
            yield from memory_rows(options, folder)
        if time.monotonic() < end_s + SHELL_S:
            yield from shell_rows(options, folder)


BENCH = Bench(
    "time, memory and accuracy of simulated rounds against other engines", ABOUT, rows
)


def _engines(options: Options) -> list[Peer]:
    """Return the engines to start; in a quick run those that are used at all."""
    rare = (VMAP, VMAP_2, PFL, FEDJAX) if options.quick else ()
    return [*OURS.values(), *(p for p in OTHERS if p not in rare)]


def event_rows(contest: Contest, event: Event, about: str, late: bool) -> Iterator[Row]:
    """Run one case and yield a row per engine, those that could not run included."""
    quick, case = contest.options.quick, event.case
    out = {p.name: "left out of --quick" for p in event.full_only if quick}
    if late:
        out = dict.fromkeys((p.name for p in event.peers), "no time left in --quick")
    names = [p.name for p in event.peers if p.name not in out]
    ours = [p.name for p in OURS.values()] if names else []
    results = contest.run(case, [*ours, *names], event.quick if quick else event.full)
    absent = {**contest.absent, **out}
    for peer in event.peers:
        told = [n for n in peer.needs if n in contest.versions]
        versions = [f"{n} {contest.versions[n]}" for n in told]
        facts = [_data(case, about), *versions, peer.note]
        yield _row(case, peer, results, absent, facts)
    rival = FLOWER.name if case.model == "none" else LOOP.name
    if {OURS[2].name, rival} <= results.keys():
        name = f"{case.name}, 2 workers vs {rival}"
        yield _versus(case, name, results[OURS[2].name], results[rival], "")


def _data(case: Case, images_are: str) -> str:
    """Return what the case learns from, for the note."""
    return {"none": "", "tiny": "digits"}.get(case.model, images_are)


def _row(
    case: Case,
    peer: Peer,
    results: Mapping[str, Result],
    absent: Mapping[str, str],
    facts: Sequence[str],
) -> Row:
    # no-op clients leave a second worker nothing but its own cost
    workers = 1 if peer in ALONE or case.model == "none" else 2
    ours, other = results.get(OURS[workers].name), results.get(peer.name)
    if ours is None or other is None:
        missing = peer.name if ours is not None else OURS[workers].name
        reason = absent.get(peer.name) or absent.get(missing, "it did not run")
        return skipped(f"{case.name} vs {peer.name}", case.work, "ms/round", reason)
    plural = "s" if workers > 1 else ""
    note = "; ".join(filter(None, [f"ours with {workers} worker{plural}", *facts]))
    return _versus(case, f"{case.name} vs {peer.name}", ours, other, note)


def _versus(case: Case, name: str, ours: Result, other: Result, note: str) -> Row:
    """Return the row of two results; no-op rounds are told per client."""
    if case.model == "none":
        a, b = ours.round_ms / case.cohort, other.round_ms / case.cohort
        return versus(name, case.work, a, b, "ms/client", note)
    right = f"accuracy {ours.accuracy:.3f} and {other.accuracy:.3f}"
    note = f"{right}; {note}" if note else right
    return versus(name, case.work, ours.round_ms, other.round_ms, "ms/round", note)


def flat_rows(contest: Contest, folder: str) -> Iterator[Row]:
    """Yield how a round's cost grows with the number of virtual clients."""
    ours = OURS[1].name
    cost: dict[int, float] = {}
    turns = Turns(2, 4) if contest.options.quick else Turns(6, 4)
    for clients in (SIZES[0], SIZES[-1]) if contest.options.quick else SIZES:
        case = Case(f"virtual-{clients}", "mlp", clients, 10, 60, folder)
        results = contest.run(case, [ours], turns)
        if ours in results:
            cost[clients] = results[ours].round_ms
    for clients in [c for c in cost if c != SIZES[0]]:
        work = "mlp, 60 rows a client, 10 clients a round"
        name = f"{clients} virtual clients vs {SIZES[0]}"
        yield versus(name, work, cost[clients], cost[SIZES[0]], "ms/round", "1 is flat")


def memory_rows(options: Options, folder: str) -> Iterator[Row]:
    """Yield the memory that ten thousand virtual clients take, in a fresh process."""
    case = Case("memory", "mlp", SIZES[-1], 10, 60, folder)
    name, work = f"memory of {SIZES[-1]} virtual clients", case.work
    with Contest(options, folder) as contest:
        contest.start([OURS[2]])
        results = contest.run(case, [OURS[2].name], Turns(1, 4))
        reason = contest.absent.get(OURS[2].name, "")
    if not results:
        yield skipped(name, work, "GB", reason)
        return
    used_gb = results[OURS[2].name].memory_bytes / 1e9
    note = "2 workers, all processes; other is the limit we set"
    yield versus(name, work, used_gb, MEMORY_LIMIT_GB, "GB", note)
