"""``fedcore bench hierarchy``: aggregators that share memory, and trees of them.

How updates get from one process to another; a tree of processes against the plain sum;
what reusing aggregators saves and what killing one costs; and how much memory it takes
to sum many updates.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from statistics import median

import torch

from fedcore.hierarchy.pool import Pool
from fedcore.params import digest
from fedcore.partial import Partial, summed
from fedcore.strategy import Update
from sims.bench.carry import ROOT, WAYS, Race
from sims.bench.figures import draw, seconds_chart
from sims.bench.frame import Bench, Options, Row, middle, skipped, versus
from sims.bench.peers.gather import Found, updates
from sims.bench.process import MissingError
from sims.report.chart import Lines

MEGA = 1_000_000
BATCH = 10  # updates handed over in one turn
FULL_MB, QUICK_MB = (1, 4, 10, 20, 40), (40,)
LEAVES, FAN_IN = 4, 2  # three levels
NAMES = {"pickle": "TCP+pickle", "tcp": "raw TCP"}

ABOUT = (
    "Handing over: a sender and an aggregator, two processes, 10 updates a turn, turns "
    "taken one after another. `add` sums float32 as it comes, `fold` sums exactly, as "
    "our aggregators do: the arithmetic is then most of the time. The pickling peer is "
    "a program that sends `pickle.dumps` over a local TCP connection.",
    "Trees: 4 leaves, one middle level and a top, each leaf a process. On two cores "
    "they compete with the gateway; `flat` is `fedcore.partial` in one process.",
    "Memory is the highest above that at the start. Of one coordinator process for "
    "`answers`; of the gateway, its leaves and what they share for `updates`.",
)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from carry_rows(options)
        yield from tree_rows(12 if options.quick else 48, 2 if options.quick else 7)
        yield from gather_rows(60 if options.quick else 400)
        options.say("many updates through two leaves")
        yield stream_row(200 if options.quick else 10_000)
    finally:
        torch.set_num_threads(threads)


BENCH = Bench(
    "aggregators: shared memory against TCP, trees against the flat sum", ABOUT, rows
)


def carry_rows(options: Options) -> Iterator[Row]:
    """Yield what handing over updates costs, by shared memory and otherwise."""
    turns = 2 if options.quick else 7
    for work in ("add", "fold"):
        curves: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for size_mb in QUICK_MB if options.quick else FULL_MB:
            options.say(f"{work}: {size_mb} MB updates")
            took = race(work, size_mb * MEGA // 4, turns)
            for way, seconds in took.items():
                curves[way].append((size_mb, seconds))
        for way, name in NAMES.items():
            title = f"shared memory vs {name}, {work}"
            task = f"{BATCH} updates of {size_mb} MB"
            yield versus(title, task, took["shared"], took[way], "s")
        if len(curves["shared"]) > 1:
            draw(options, _figure(work, curves))


def race(work: str, numbers: int, turns: int) -> dict[str, float]:
    """Return the median seconds of each way."""
    with Race(work, numbers) as ways:
        laps = [{way: ways.turn(way, BATCH) for way in WAYS} for _ in range(turns)]
    return {way: median(lap[way] for lap in laps) for way in WAYS}


def _figure(work: str, curves: dict[str, list[tuple[float, float]]]) -> Lines:
    names = {"shared": "shared memory", **NAMES}
    does = {"add": "added in float32", "fold": "summed exactly"}[work]
    return seconds_chart(
        f"bench-hierarchy-{work}",
        f"{BATCH} updates from one process to another, {does}",
        "Seconds from the first update until the last is in the sum; lower is better.",
        "size of one update, MB",
        {names[way]: pairs for way, pairs in curves.items()},
    )


def sha256(partial: Partial) -> str:
    """Return the digest of a sum."""
    return digest(partial.update().payload)


def tree_rows(count: int, turns: int) -> Iterator[Row]:
    """Yield a tree of processes against the plain sum, and what it lives through."""
    given, work = list(updates(count, MEGA)), f"{count} updates of 4 MB"
    with Pool(LEAVES, FAN_IN) as tree, Pool(1) as one:

        def killed() -> Partial:
            pid = tree.hands[0].pid
            timer = threading.Timer(alone / 3, _kill, [pid])
            timer.start()
            total = tree.summed(iter(given))
            timer.join()
            return total

        ways: dict[str, Callable[[], Partial]] = {
            "flat": lambda: summed(iter(given)),
            "one": lambda: one.summed(iter(given)),
            "tree": lambda: tree.summed(iter(given)),
            "cold": lambda: _cold(given),
        }
        bits = {name: sha256(way()) for name, way in ways.items()}
        laps = [{name: _timed(way) for name, way in ways.items()} for _ in range(turns)]
        took = {name: middle([lap[name] for lap in laps]) for name in ways}
        alone = took["tree"]
        ways["killed"], bits["killed"] = killed, sha256(killed())
        took["killed"] = middle([_timed(killed) for _ in range(turns)])
    same = "same bits" if len(set(bits.values())) == 1 else f"OTHER BITS: {bits}"
    yield versus(
        "tree of 3 levels vs flat", work, took["tree"], took["flat"], "s", same
    )
    yield versus("one leaf vs flat", work, took["one"], took["flat"], "s", same)
    reused = f"{same}; new: {LEAVES} processes started and ended in each round"
    name = "reused aggregators vs new ones"
    yield versus(name, work, took["tree"], took["cold"], "s", reused)
    note = f"{same}; the leaf's successor goes on where it stopped"
    name = "a leaf killed (kill -9) vs none"
    yield versus(name, work, took["killed"], took["tree"], "s", note)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cold(given: Sequence[Update]) -> Partial:
    with Pool(LEAVES, FAN_IN) as pool:
        return pool.summed(iter(given))


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def gather_rows(answers: int) -> Iterator[Row]:
    """Yield the memory and time of a coordinator that sums answers as they come."""
    name, work = "sums as they come vs payloads kept", f"{answers} answers of 4 MB"
    try:
        other, ours = gathered("flat", answers), gathered("eager", answers)
    except MissingError as error:
        yield skipped(name, work, "MB", str(error))
        return
    same = "same bits" if ours.sha256 == other.sha256 else "OTHER BITS"
    a, b = ours.peak_bytes / MEGA, other.peak_bytes / MEGA
    yield versus(f"{name}, memory", work, a, b, "MB", same)
    yield versus(f"{name}, time", work, ours.seconds, other.seconds, "s", same)


def stream_row(count: int) -> Row:
    """Return the memory that many updates take which pass through two leaves."""
    name, work = f"memory of {count} updates", f"{count} updates of 4 MB, 2 leaves"
    try:
        found = gathered("stream", count)
    except MissingError as error:
        return skipped(name, work, "MB", str(error))
    right = found.sha256 == digest(summed(updates(count, MEGA)).mean())
    two = 2 * 2 * 8  # leaves, models, bytes a number of a sum
    note = f"{'same bits' if right else 'OTHER BITS'} as the plain sum"
    note += f"; {found.seconds:.0f} s; other: two models (64-bit sums) an aggregator"
    note += f"; all payloads are {4 * count} MB"
    return versus(name, work, found.peak_bytes / MEGA, float(two), "MB", note)


def gathered(way: str, answers: int) -> Found:
    """Return what ``sims.bench.peers.gather`` finds, in a fresh process.

    Raises:
        MissingError: it failed; the message says how.
    """
    done = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-m", "sims.bench.peers.gather", way, str(answers), str(MEGA)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["no message"]
        raise MissingError(f"{way}: {told[-1][:200]}")
    seconds, peak, sha = done.stdout.split()
    return Found(float(seconds), int(peak), sha)
