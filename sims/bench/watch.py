"""Federations watched as they learn: settings in, curves out, many at once.

A curve is what a strategy does over rounds or over simulated time: accuracy of the one
model, and how well clients are served by their own. Curves come from whole simulated
runs, configured as ``fedcore sim run`` configures them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from statistics import median
from typing import Any

import torch

from clients.tasks import load_task
from fedcore.config import from_flags
from fedcore.coordinator import Coordinator, Desk, Journal, NoJournal, Rules
from fedcore.errors import ProtocolError, QuorumError
from fedcore.strategy import PeerId
from fedcore.task import Task, Trainer, load
from sims.bench.pool import mapped
from sims.data.own_rows import own_tests
from sims.engine import Engine, make_engine
from sims.runs.brake import HaltError
from sims.runs.config import RunConfig, TaskChoice, configured
from sims.runs.personal import personal
from sims.runs.run import Data, Setup, prepare
from sims.runs.spread import spread
from sims.world.virtual import VirtualLink

Wrap = Callable[[Trainer], Trainer]


@dataclass(frozen=True, slots=True)
class Point:
    """A run at one moment.

    Attributes:
        round: rounds folded.
        clock_s: simulated seconds.
        accuracy: of the one model, on all held-out examples.
        own: mean over clients of their own model's accuracy on examples like theirs;
            0 where it was not asked for.
        worst: the same over the worst tenth of the clients.
    """

    round: int
    clock_s: float
    accuracy: float
    own: float = 0.0
    worst: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One run to watch.

    Attributes:
        flags: ``--set`` words of the run; ``run.rounds`` ends it.
        every: rounds between two points; the last round always counts.
        own: measure clients' own models, too.
        horizon_s: simulated seconds after which to stop; 0 for never.
        wrap: name of something around the trainer, in ``WRAPS``; empty for nothing.
    """

    flags: tuple[str, ...]
    every: int = 1
    own: bool = False
    horizon_s: float = 0.0
    wrap: str = ""


WRAPS: dict[str, Wrap] = {"": lambda trainer: trainer}

Curve = tuple[Point, ...]


def curve(trial: Trial) -> Curve:
    """Run ``trial`` in this process, on one thread, and return its points.

    A run that fails for want of good answers ends where it failed.
    """
    torch.set_num_threads(1)
    config = _config(trial)
    setup = prepare(config, _data(config.task))
    trainer = WRAPS[trial.wrap](config.trainer)
    watching = _Watching(trial, setup)
    with make_engine(trainer, setup.tasks, workers=1) as engine:
        run_out(setup, engine, watching, config.run.rounds)
    return tuple(watching.points)


def run_out(setup: Setup, engine: Engine, journal: Journal, rounds: int) -> None:
    """Run ``setup`` until ``journal`` halts it; one that breaks down ends there."""
    config = setup.config
    world = (config.devices, config.network, config.availability)
    link = VirtualLink(engine, setup.tasks, *world, config.run.seed)
    rules: Rules[Any, Any] = Rules(config.strategy, config.pacer, config.gate)
    with suppress(HaltError, ProtocolError, QuorumError):  # over; or none is let in
        Coordinator(rules, link, journal).run(setup.start, rounds)


def _config(trial: Trial) -> RunConfig:
    return configured(from_flags(trial.flags))


_loaded: dict[str, Data] = {}


def _data(task: TaskChoice) -> Data:
    """Return the data of ``task``; one process loads them once."""
    if str(task) not in _loaded:
        _loaded[str(task)] = Data(task, load_task(task.name, task.settings))
    return _loaded[str(task)]


@dataclass
class _Watching(NoJournal):
    """A journal that keeps nothing but points."""

    trial: Trial
    setup: Setup
    points: list[Point] = field(default_factory=list)

    def folded(self, desk: Desk[Any, Any]) -> None:
        late = 0 < self.trial.horizon_s <= desk.now_s
        if late or desk.state.version % self.trial.every == 0:
            self.points.append(self._point(desk))
        if late:
            raise HaltError("target")

    def save(self, desk: Desk[Any, Any]) -> None:
        if not self.points or self.points[-1].round != desk.state.version:
            self.points.append(self._point(desk))

    def _point(self, desk: Desk[Any, Any]) -> Point:
        dataset, state = self.setup.dataset, desk.state
        model = load(dataset.new_model(), state.params)
        figures = dataset.whole().evaluate(model)
        own = self._own(desk) if self.trial.own else {}
        return Point(
            state.version,
            desk.now_s,
            figures.get("accuracy", 0.0),
            own.get("mean", 0.0),
            own.get("worst_tenth", 0.0),
        )

    def _own(self, desk: Desk[Any, Any]) -> Mapping[str, float]:
        strategy = self.setup.config.strategy
        return spread(personal(strategy, desk.state, self._tasks(), desk.kept))

    def _tasks(self) -> Mapping[PeerId, Task]:
        shards = {peer: self.setup.tasks[peer] for peer in self.setup.tasks}
        return own_tests(self.setup.dataset, shards, self.setup.config.run.seed)


def curves(trials: Sequence[Trial], processes: int) -> list[Curve]:
    """Return the curve of every trial; data are loaded once, before any process."""
    for trial in trials:
        _data(_config(trial).task)
    found = mapped(lambda t: [astuple(p) for p in curve(t)], trials, processes)
    return [tuple(Point(*point) for point in points) for points in found]


def at_best(
    grid: Sequence[Trial],
    score: Callable[[Curve], float],
    seeds: Sequence[int],
    processes: int,
) -> Trial:
    """Return the trial of ``grid`` with the best median score over ``seeds``."""
    if len(grid) == 1:
        return grid[0]
    trials = [seeded(trial, seed) for trial in grid for seed in seeds]
    scores = [score(found) for found in curves(trials, processes)]
    cut = len(seeds)
    middles = [median(scores[i * cut : (i + 1) * cut]) for i in range(len(grid))]
    return grid[middles.index(max(middles))]


def seeded(trial: Trial, seed: int) -> Trial:
    """Return ``trial`` with another seed for everything that is drawn."""
    return replace(trial, flags=(*trial.flags, f"run.seed={seed}"))
