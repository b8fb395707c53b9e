"""``fedcore bench strategies``: every strategy on the problem it is for, beside FedAvg.

Each strategy meets FedAvg in a scene where it should help: unlike clients, liars,
groups that disagree, devices of different speeds. Both get their best step size from a
grid, then fresh seeds. What is printed is what came out, gains and losses alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median, quantiles

from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row, versus
from sims.bench.scenes import ENTRIES, RIVALS, SCENES, Entry, Scene
from sims.bench.watch import Curve, Point, Trial, at_best, curves, seeded
from sims.report.chart import Line, Lines

ABOUT = (
    "Errors are 1 - accuracy, its mean over the last eighth of the run (who swings "
    "is not judged by where it happens to stop), medians over seeds; `own` scenes "
    "measure each client's own model on held-out examples like its own.",
    "Rivals and strategies take their best setting from a grid, on "
    "three seeds that are not used afterwards; all else is equal.",
    "Ratio: the rival's error over the strategy's; below 1 the strategy lost.",
)
BASE = "fedavg"
TUNING_SEEDS = 3
SEEDS = 10
PROCESSES = 2
END = 1 / 8  # of a run, by whose mean it is judged
LEAST = 1e-4  # an error of 0 has no ratio
FIRST_FRESH = 100  # seeds from here on were not tuned on
QUICK = ("fedadam", "fedprox", "ocfl")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one strategy did in a scene.

    Attributes:
        trial: with its best setting.
        curves: one a seed.
    """

    trial: Trial
    curves: Sequence[Curve]


@dataclass(frozen=True, slots=True)
class Strategies:
    """The benchmark of the strategies.

    Attributes:
        rivals: what was seen of them, by their settings and scene.
    """

    rivals: dict[tuple[str, str], Seen] = field(default_factory=dict)

    def rows(self, options: Options) -> Iterator[Row]:
        """Train, draw, and yield rows as they are ready."""
        self.rivals.clear()
        for name, entry in ENTRIES.items():
            if options.quick and name not in QUICK:
                continue
            options.say(f"{name}: {SCENES[entry.scene].title}")
            rival = self._rival(entry, options)
            seen = look(name, entry, options)
            yield row_of(name, entry, rival, seen)
            if name == strategy_of(name):
                draw(options, figure(name, entry, rival, seen))

    def _rival(self, entry: Entry, options: Options) -> Seen:
        """Return what the rival does in the scene of ``entry``; found once."""
        key = (entry.scene, entry.rival)
        if key not in self.rivals:
            rival = replace(RIVALS[entry.rival], scene=entry.scene)
            self.rivals[key] = look(entry.rival, rival, options)
        return self.rivals[key]


HELP = "every strategy beside FedAvg, each on the problem it is for"
BENCH = Bench(HELP, ABOUT, Strategies().rows)


def strategy_of(name: str) -> str:
    """Return the strategy of the entry called ``name``."""
    return name.partition(",")[0]


def look(name: str, entry: Entry, options: Options) -> Seen:
    """Tune ``name`` in its scene, then train it with fresh seeds."""
    scene = SCENES[entry.scene]
    grid = [trial_of(scene, name, entry, flags) for flags in settings_of(scene, entry)]
    grid = grid[: 2 if options.quick else None]
    tuning = range(1 if options.quick else TUNING_SEEDS)
    best = at_best(grid, lambda c: 1 - error(scene, c), tuning, PROCESSES)
    fresh = range(FIRST_FRESH, FIRST_FRESH + (3 if options.quick else SEEDS))
    return Seen(best, curves([seeded(best, seed) for seed in fresh], PROCESSES))


def settings_of(scene: Scene, entry: Entry) -> list[tuple[str, ...]]:
    """Return every combination of the scene's step sizes and the entry's own grid."""
    rates = [f"trainer.lr={lr}" for lr in scene.rates]
    own = entry.grid or ((),)
    return [(rate, *more) for rate in rates for more in own]


def trial_of(scene: Scene, name: str, entry: Entry, more: Sequence[str]) -> Trial:
    """Return the run of entry ``name`` with ``more`` settings."""
    flags = (f"strategy.name={strategy_of(name)}", *scene.flags, *entry.flags, *more)
    return Trial(flags, scene.every, scene.own, scene.horizon_s, scene.wrap)


def error(scene: Scene, curve: Curve) -> float:
    """Return the mean error of the end of ``curve``; 1 if it never got anywhere."""
    if not curve:
        return 1.0
    last = ending(scene, curve)
    return 1.0 - fmean(p.own if scene.own else p.accuracy for p in last)


def ending(scene: Scene, curve: Curve) -> Curve:
    """Return the points in the last eighth of ``curve``, at least its last one."""

    def place(point: Point) -> float:
        return point.clock_s if scene.horizon_s else point.round

    return tuple(p for p in curve if place(p) >= (1 - END) * place(curve[-1]))


def row_of(name: str, entry: Entry, rival: Seen, seen: Seen) -> Row:
    """Return the row of one strategy."""
    scene = SCENES[entry.scene]
    ours, theirs = (
        [max(error(scene, c), LEAST) for c in found.curves] for found in (seen, rival)
    )
    won = sum(a < b for a, b in zip(ours, theirs, strict=True))
    facts = [
        f"accuracy {1 - median(ours):.3f} and {1 - median(theirs):.3f}",
        f"better in {won} of {len(ours)} seeds",
        f"quartiles {_quartiles(ours)} and {_quartiles(theirs)}",
        f"set: {chosen(seen)}; rival: {chosen(rival)}",
    ]
    if scene.own:
        worst = [_worst(scene, found) for found in (seen, rival)]
        facts.insert(1, f"worst tenth of the clients {worst[0]:.3f} and {worst[1]:.3f}")
    unit = "own error" if scene.own else "error"
    told = f"{name} vs {entry.rival}"
    ours_, theirs_ = median(ours), median(theirs)
    return versus(told, scene.title, ours_, theirs_, unit, "; ".join(facts))


def _worst(scene: Scene, seen: Seen) -> float:
    ends = [ending(scene, curve) for curve in seen.curves if curve]
    return median(fmean(point.worst for point in end) for end in ends)


def _quartiles(errors: Sequence[float]) -> str:
    low, _, high = quantiles([1 - e for e in errors], n=4)
    return f"{low:.3f}-{high:.3f}"


def chosen(seen: Seen) -> str:
    """Return the settings that the grid settled."""
    usual = {flag for scene in SCENES.values() for flag in scene.flags}
    return ", ".join(flag for flag in seen.trial.flags[1:] if flag not in usual)


def figure(name: str, entry: Entry, rival: Seen, seen: Seen) -> Lines:
    """Return both curves, the median over seeds at every point."""
    scene = SCENES[entry.scene]
    what = "clients' own accuracy" if scene.own else "accuracy"
    return Lines(
        f"strategies-{name}",
        f"{name}: {scene.title}",
        f"Median {what} over {len(seen.curves)} seeds.",
        "simulated seconds" if scene.horizon_s else "round",
        "%",
        (
            Line.of(entry.rival, middle_curve(scene, rival.curves)),
            Line.of(name, middle_curve(scene, seen.curves)),
        ),
    )


def middle_curve(scene: Scene, curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """Return (x, median accuracy) of ``curves``, by round or by simulated time.

    By time, what a run has reached holds until its next point.
    """
    if not scene.horizon_s:
        shortest = min(map(len, curves))
        return [
            (float(curves[0][i].round), median(_value(scene, c, i) for c in curves))
            for i in range(shortest)
        ]
    ticks = [scene.horizon_s * i / 40 for i in range(41)]
    return [(t, median(_reached(scene, c, t) for c in curves)) for t in ticks]


def _value(scene: Scene, curve: Curve, index: int) -> float:
    return curve[index].own if scene.own else curve[index].accuracy


def _reached(scene: Scene, curve: Curve, clock_s: float) -> float:
    done = [i for i, point in enumerate(curve) if point.clock_s <= clock_s]
    return _value(scene, curve, done[-1]) if done else 0.0
