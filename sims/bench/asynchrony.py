"""``fedcore bench async``: who is first at a target accuracy, on unlike devices.

FedAvg, FedAsync, FedBuff and FedCompass as published, and our FedCadence, on one
virtual clock: two data sets, each cut in two ways that give clients unlike classes;
devices of equal, normal and exponential speed, and nine equal ones with one that is 50
times as slow. Every algorithm's gain is tuned for each (``sims.bench.race``).
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp, inf, log
from pathlib import Path
from statistics import fmean

from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row, versus
from sims.bench.race import Entrant, Plan, Standing, Track, race
from sims.report.chart import Line, Lines

CLIENTS = 10
STEPS = 20  # most local batches per work, for every algorithm
SLOW = 50.0
CADENCE, COMPASS, TUNED = "FedCadence", "FedCompass", "FedCompass*"
UNIT = "rounds"
DRAWN = "digits, classes"

ABOUT = (
    f"Times are virtual, in rounds: {STEPS} batches of a device of mean speed. "
    f"{CLIENTS} clients, softmax regression, {STEPS} batches per work at most, no time "
    "for messages; work shakes by 5 % (lognormal). Median over seeds; a median that is "
    "not reached counts as the horizon, and the note says so.",
    "Gains are tuned per algorithm and federation on other seeds than those judged; "
    "`!` marks one at the end of its grid.",
    "Models are looked at ten times a round at most, so that who folds more often does "
    "not get more tries.",
    "FedCompass is as published: even shares, Q_min = Q_max / 5. FedCompass* has what "
    "FedCadence has, too: shares by examples, and Q_min = 1.",
    "Messages are free, which favours small works: with 5 batches, not 20, FedAvg "
    "took a third of the time between equal devices. Compare at one number only.",
)

RIVALS = (
    Entrant(
        "FedAvg", (f"strategy.steps={STEPS}",), "strategy.server_lr", (1, 1.5, 2.2, 3.3)
    ),
    Entrant(
        "FedAsync",
        ("strategy.name=fedasync", f"strategy.steps={STEPS}"),
        "strategy.gain",
        (0.3, 0.6, 1),
    ),
    Entrant(
        "FedBuff",
        ("strategy.name=fedbuff", f"strategy.steps={STEPS}"),
        "strategy.server_lr",
        (1, 1.5, 2.2, 3.3),
    ),
)


def _paced(name: str, least: int, gains: Sequence[float], *settings: str) -> Entrant:
    """Return an algorithm that tells devices how many batches to do."""
    steps = (f"pacer.min_steps={least}", f"pacer.max_steps={STEPS}")
    return Entrant(name, (*settings, *steps), "strategy.gain", gains)


ENTRANTS = (
    _paced(CADENCE, 1, (1, 1.5, 2.2, 3.3), "strategy.name=fedcadence"),
    *RIVALS,
    _paced(COMPASS, STEPS // 5, (1.5, 2.7, 4, 6), "strategy.name=fedcompass"),
    _paced(
        TUNED,
        1,
        (1.5, 2.7, 4, 6),
        "strategy.name=fedcompass",
        "strategy.shares=examples",
    ),
)
TASKS = {
    "digits": ("task.name=digits", "trainer.lr=0.5"),
    "mnist5k": ("task.name=mnist5k", "trainer.lr=0.2"),
}
PARTITIONS = {
    "classes": ("partition.name=class-draw",),  # 3 to 5 of ten, as in FedCompass
    "dirichlet": ("partition.name=dual-dirichlet",),
}
TARGETS = {
    ("digits", "classes"): 0.90,
    ("digits", "dirichlet"): 0.88,
    ("mnist5k", "classes"): 0.85,
    ("mnist5k", "dirichlet"): 0.80,
}
HORIZONS = {"equal": 30.0, "normal": 40.0, "exponential": 30.0, "straggler": 80.0}


def tracks(folder: Path) -> Iterator[Track]:
    """Yield the federations; speeds where one is a straggler go to ``folder``."""
    file = folder / "straggler.csv"
    speeds = [SLOW if i == CLIENTS // 3 else 1.0 for i in range(CLIENTS)]
    lines = [f"{i},{step_s}\n" for i, step_s in enumerate(speeds)]
    file.write_text("index,step_s\n" + "".join(lines), encoding="utf-8")
    names = {"equal": "constant", "straggler": "trace"}
    for task, part in TARGETS:
        for speed, horizon in HORIZONS.items():
            own = (f"devices.file={file}",) if speed == "straggler" else ()
            settings = (
                *TASKS[task],
                *PARTITIONS[part],
                "task.model=linear",
                f"run.clients={CLIENTS}",
                f"devices.name={names.get(speed, speed)}",
                *own,
                "devices.jitter=0.05",
            )
            name = f"{task}, {part}, {speed}"
            target = TARGETS[task, part]
            yield Track(name, settings, target, horizon, unit=STEPS, every=0.1)


def rows(options: Options) -> Iterator[Row]:
    """Race, and yield the rows of each federation as it is done."""
    plan = Plan(range(100, 103), range(10))
    entrants: Sequence[Entrant] = ENTRANTS
    with tempfile.TemporaryDirectory(prefix="fedcore-bench-") as folder:
        chosen = list(tracks(Path(folder)))
        if options.quick:
            plan, chosen = Plan(range(100, 101), range(3)), chosen[1:2]
            entrants = [replace(e, gains=e.gains[1:3]) for e in ENTRANTS]
        seen: list[Mapping[str, Standing]] = []
        for track in chosen:
            options.say(f"async: {track.name}")
            standings = {s.entrant.name: s for s in race(entrants, track, plan)}
            seen.append(standings)
            if track.name.startswith(DRAWN):
                draw(options, chart(track, list(standings.values())))
            yield from track_rows(track, standings)
        if len(seen) > 1:
            yield from total_rows(seen)


BENCH = Bench(
    "virtual time to a target accuracy with devices of unlike speed", ABOUT, rows
)


def track_rows(track: Track, standings: Mapping[str, Standing]) -> Iterator[Row]:
    """Yield FedCadence against the best of the rest, and FedCompass likewise."""
    simple = [standings[e.name] for e in RIVALS]
    rest = [*simple, standings[COMPASS], standings[TUNED]]
    yield _row(track, standings[CADENCE], rest)
    yield _row(track, standings[COMPASS], simple)


def _row(track: Track, ours: Standing, rest: Sequence[Standing]) -> Row:
    """Return the row of ``ours`` and the quickest of ``rest``; all are in its note."""
    best = min(rest, key=lambda s: (s.middle, -s.finished))
    name = f"{track.name}: {ours.entrant.name} vs {best.entrant.name}"
    work = f"to {track.target:.0%}, horizon {track.horizon:g}"
    told = "; ".join(map(told_of, [ours, *rest]))
    return versus(name, work, counted(ours), counted(best), UNIT, told)


def counted(standing: Standing) -> float:
    """Return the median time, or the horizon if it is beyond."""
    return min(standing.middle, standing.track.horizon)


def told_of(standing: Standing) -> str:
    """Return time, seeds in time and gain in a few words."""
    time = f"{standing.middle:.3g}" if standing.middle < inf else "not in time"
    edge = "!" if standing.at_edge else ""
    arrived = f"{standing.finished}/{len(standing.laps)}"
    return f"{standing.entrant.name} {time} ({arrived}, gain {standing.gain:g}{edge})"


def total_rows(seen: Sequence[Mapping[str, Standing]]) -> Iterator[Row]:
    """Yield mean times over all federations, against each rival."""
    work = f"geometric mean of {len(seen)} federations"
    names = [e.name for e in ENTRANTS]
    pairs = [(CADENCE, n) for n in names[1:]] + [(COMPASS, e.name) for e in RIVALS]
    for ours, other in pairs:
        times = [(counted(s[ours]), counted(s[other])) for s in seen]
        ahead, level = sum(a < b for a, b in times), sum(a == b for a, b in times)
        note = f"ahead in {ahead}, level in {level}, behind in the rest"
        a, b = (exp(fmean(map(log, side))) for side in zip(*times, strict=True))
        yield versus(f"all: {ours} vs {other}", work, a, b, UNIT, note)


def chart(track: Track, standings: Sequence[Standing]) -> Lines:
    """Return accuracy over time; a run that has arrived stays where it is."""
    slug = "bench-async-" + track.name.replace(", ", "-")
    title = f"{track.name}: accuracy over virtual time"
    note = f"Mean over seeds; runs end at the target, {track.target:.0%}."
    end = min(track.horizon, 1.2 * max(map(counted, standings)))
    lines = tuple(Line.of(s.entrant.name, curve(s, end)) for s in standings)
    return Lines(slug, title, note, UNIT, "%", lines)


def curve(standing: Standing, end: float) -> Iterator[tuple[float, float]]:
    """Yield (time, mean accuracy) from when every seed was looked at, to ``end``."""
    starts = [lap.points[0][0] for lap in standing.laps if lap.points]
    first = max(starts, default=inf)
    for tick in range(101):
        x = end * tick / 100
        if x >= first:
            yield x, fmean(lap.at(x) for lap in standing.laps)
