"""Races to a target accuracy: same data, clients and clock, one algorithm each.

An ``Entrant`` is an algorithm: settings, and one key whose value is tuned for it. A
``Track`` is a federation: settings for the task, who holds what and how fast devices
are, and what counts as reaching the target. ``race`` tunes every entrant on every track
with some seeds, runs it with others, and returns a ``Standing`` each:

    track = Track("digits", ("task.name=digits", ...), target=0.85, unit=20, horizon=60)
    standings = race([Entrant("fedavg", (), "strategy.server_lr", (1, 2))], track, plan)

The axis is the virtual clock or the number of rounds. Every seed deals the data, the
first model, the speeds and the order of batches anew, alike for all entrants. Models
are looked at no more often than ``every``, so that who folds ten times as often does
not have ten times the chances to jump over the target once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Any, Literal

import torch

from clients.tasks import load_task
from fedcore.config import from_flags
from fedcore.coordinator import Desk, NoJournal
from fedcore.task import load
from sims.bench.pool import mapped
from sims.bench.watch import run_out
from sims.runs.brake import HaltError
from sims.runs.config import RunConfig, configured
from sims.runs.run import Data, Setup, prepare

Points = tuple[tuple[float, float], ...]

ENDLESS = 10**9  # rounds; the stopwatch ends a run


@dataclass(frozen=True, slots=True)
class Entrant:
    """One algorithm.

    Attributes:
        name: as shown.
        settings: ``key=value``, as for ``--set``.
        gain_key: the setting that is tuned; ``""`` if none is.
        gains: its values to try, ascending.
    """

    name: str
    settings: Sequence[str]
    gain_key: str = ""
    gains: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Track:
    """One federation, and when a run of it is over.

    Attributes:
        settings: ``key=value``; an entrant's come after them.
        target: held-out accuracy to reach, in (0, 1].
        horizon: where a run ends that has not reached it, in units.
        unit: virtual seconds, or rounds, that make one unit of the axis.
        axis: what is counted.
        every: least distance of two looks at the model, in units; 0 looks at every
            fold.
        beyond: run to the horizon even when the target is reached, for final figures.
    """

    name: str
    settings: Sequence[str]
    target: float
    horizon: float
    unit: float = 1.0
    axis: Literal["clock", "rounds"] = "clock"
    every: float = 0.0
    beyond: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Which seeds, and how many processes.

    Attributes:
        tuning: seeds by which gains are chosen.
        fresh: other seeds, by which entrants are judged.
        processes: runs at once.
    """

    tuning: Sequence[int]
    fresh: Sequence[int]
    processes: int = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One entrant on one track, with one gain and one seed."""

    entrant: Entrant
    track: Track
    gain: float | None
    seed: int

    def config(self) -> RunConfig:
        """Return the configuration.

        Raises:
            ConfigError: a setting is wrong.
        """
        flags = [*self.track.settings, *self.entrant.settings]
        if self.gain is not None:
            flags.append(f"{self.entrant.gain_key}={self.gain}")
        fixed = [f"run.seed={self.seed}", "run.workers=1", "run.personal=0"]
        return configured(from_flags([*flags, *fixed]))


@dataclass(frozen=True, slots=True)
class Lap:
    """What became of a run.

    Attributes:
        points: (units, held-out accuracy) of every look at the model.
    """

    points: Points

    def reached(self, target: float) -> float:
        """Return when the accuracy first was ``target``; inf if it never was."""
        return next((x for x, accuracy in self.points if accuracy >= target), inf)

    def at(self, x: float) -> float:
        """Return the accuracy of the last look until ``x``; 0 before the first."""
        return next((y for seen, y in reversed(self.points) if seen <= x), 0.0)

    @property
    def best(self) -> float:
        """The highest accuracy; 0 if there is none."""
        return max((accuracy for _, accuracy in self.points), default=0.0)

    @property
    def last(self) -> float:
        """The accuracy at the end; 0 if there is none."""
        return self.points[-1][1] if self.points else 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How an entrant did on a track.

    Attributes:
        gain: the one chosen; None if there was nothing to choose.
        at_edge: it is at an end of the grid; beyond it may lie a better one.
        laps: one per fresh seed.
    """

    entrant: Entrant
    track: Track
    gain: float | None
    at_edge: bool
    laps: Sequence[Lap]

    @property
    def times(self) -> list[float]:
        """When each seed reached the target, in units; inf if never."""
        return [lap.reached(self.track.target) for lap in self.laps]

    @property
    def finished(self) -> int:
        """Seeds that reached the target."""
        return sum(t < inf for t in self.times)

    @property
    def middle(self) -> float:
        """Median time; inf if half of the seeds or more did not arrive."""
        return float(median(self.times))


@dataclass
class _Stopwatch(NoJournal):
    """Looks at the model after folds, and ends the run where it is over."""

    setup: Setup
    track: Track
    points: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._model = self.setup.dataset.new_model()
        self._whole = self.setup.dataset.whole()

    def folded(self, desk: Desk[Any, Any]) -> None:
        track = self.track
        clock = track.axis == "clock"
        x = (desk.now_s if clock else desk.state.version) / track.unit
        if x > track.horizon:
            raise HaltError("finished")
        if self.points and x < self.points[-1][0] + track.every < track.horizon:
            return
        model = load(self._model, desk.state.params)
        accuracy = self._whole.evaluate(model)["accuracy"]
        self.points.append((x, accuracy))
        if accuracy >= track.target and not track.beyond:
            raise HaltError("target")


def lap(run: Run, data: Data) -> Lap:
    """Return what becomes of ``run``; one that breaks down ends there."""
    torch.set_num_threads(1)
    setup = prepare(run.config(), data)
    watch = _Stopwatch(setup, run.track)
    with setup.engine() as engine:
        run_out(setup, engine, watch, ENDLESS)
    return Lap(tuple(watch.points))


def laps(runs: Sequence[Run], processes: int) -> list[Lap]:
    """Return the laps of ``runs``; their data are loaded once, before any process."""
    shared = {str(task): task for task in (run.config().task for run in runs)}
    data = {
        name: Data(task, load_task(task.name, task.settings))
        for name, task in shared.items()
    }
    done = mapped(
        lambda run: lap(run, data[str(run.config().task)]).points, runs, processes
    )
    return [Lap(tuple((x, y) for x, y in points)) for points in done]


def cost(laps: Sequence[Lap], track: Track) -> float:
    """Return the mean time; a lap in vain counts the horizon and what it lacked."""
    late = [track.horizon * (1 + track.target - lap.best) for lap in laps]
    times = [lap.reached(track.target) for lap in laps]
    return sum(map(min, times, late)) / len(laps)


def race(entrants: Sequence[Entrant], track: Track, plan: Plan) -> list[Standing]:
    """Return how ``entrants`` do on ``track``, each with its best gain."""
    tries = [
        Run(e, track, gain, seed)
        for e in entrants
        if len(e.gains) > 1
        for gain in e.gains
        for seed in plan.tuning
    ]
    tuned: dict[tuple[str, float | None], list[Lap]] = {}
    for run, done in zip(tries, laps(tries, plan.processes), strict=True):
        tuned.setdefault((run.entrant.name, run.gain), []).append(done)
    chosen = {e.name: _best(e, track, tuned) for e in entrants}
    runs = [Run(e, track, chosen[e.name], s) for e in entrants for s in plan.fresh]
    found = iter(laps(runs, plan.processes))
    return [
        Standing(
            e,
            track,
            gain := chosen[e.name],
            len(e.gains) > 1 and gain in (e.gains[0], e.gains[-1]),
            [next(found) for _ in plan.fresh],
        )
        for e in entrants
    ]


def _best(
    entrant: Entrant,
    track: Track,
    tuned: Mapping[tuple[str, float | None], Sequence[Lap]],
) -> float | None:
    """Return the gain whose laps cost least."""
    if len(entrant.gains) < 2:
        return entrant.gains[0] if entrant.gains else None
    return min(entrant.gains, key=lambda g: cost(tuned[entrant.name, g], track))
