"""One simulated run, from its configuration to the last model.

The same configuration gives the same bits: whatever the number of workers, with or
without an interruption, today or when ``fedcore sim verify`` does it again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from clients.tasks import load_task
from clients.tasks.dataset import Dataset, Federation
from fedcore.coordinator import (
    Coordinator,
    Desk,
    Fold,
    Journal,
    NoJournal,
    Rules,
)
from fedcore.errors import QuorumError
from fedcore.gate import Refusal
from fedcore.hierarchy.aggregate import Aggregator
from fedcore.metrics import Meter, Row
from fedcore.params import Params, digest
from fedcore.strategy import AnyState, PeerId
from fedcore.task import load
from sims.data.deal import Labels
from sims.data.federate import federate
from sims.data.own_rows import own_tests
from sims.engine import Engine, make_engine
from sims.runs.brake import Braked, Ending, HaltError
from sims.runs.checks import check_cohort
from sims.runs.config import RunConfig, TaskChoice
from sims.runs.folder import Clients
from sims.runs.personal import Tuning, personal, some
from sims.runs.probed import troubles_of
from sims.runs.spread import Figures
from sims.world.virtual import VirtualLink

SHOWN_CLIENTS = 40  # of whom the labels are kept for the report
MOST_LABELS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """A loaded task, to be shared by runs that learn the same."""

    task: TaskChoice
    dataset: Dataset

    @cached_property
    def sha256(self) -> str:
        """Digest of examples and frozen weights; takes a while, so once."""
        return self.dataset.digest()


@dataclass(frozen=True)
class Setup:
    """Everything a run needs, made from its configuration."""

    config: RunConfig
    data: Data
    tasks: Federation
    start: Params

    @property
    def dataset(self) -> Dataset:
        """What is learned; concepts rename the classes of the task's own."""
        return self.tasks.dataset

    def engine(self) -> Engine:
        """Return the engine that trains the clients; the caller closes it."""
        run = self.config.run
        trainer = self.config.privacy.around(self.config.trainer, run.seed)
        return make_engine(trainer, self.tasks, run.workers, run.engine)

    def clients(self) -> Clients:
        """Return who takes part, for the report."""
        examples = sum(task.examples for task in self.tasks.values())
        return Clients(len(self.tasks), examples, self._labels())

    def _labels(self) -> Mapping[str, Mapping[str, int]]:
        labels = self.dataset.labels
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            return {}
        if len(np.unique(labels)) > MOST_LABELS:
            return {}
        shown = list(self.tasks)[:SHOWN_CLIENTS]
        return {peer: _counts(labels[self.tasks[peer].rows]) for peer in shown}


def _counts(labels: Labels) -> Mapping[str, int]:
    names, counts = np.unique(labels, return_counts=True)
    return {str(n): int(c) for n, c in zip(names, counts, strict=True)}


def prepare(config: RunConfig, data: Data | None = None) -> Setup:
    """Load the data, deal them out and draw the first model.

    Args:
        config: what to run.
        data: of an earlier run; used again if the task is the same.

    Raises:
        ConfigError: the task cannot be loaded, or its data cannot be cut so.
    """
    run, task = config.run, config.task
    if data is None or data.task != task:
        data = Data(task, load_task(task.name, task.settings))
    tasks = federate(data.dataset, config.partition, run.clients, run.seed)
    check_cohort(config.pacer, len(tasks))
    return Setup(config, data, tasks, tasks.dataset.start(run.seed))


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        ending: all rounds done; the target reached; or stopped on request.
        rounds: rounds folded.
        sha256: digest of the model.
        personal: figures of clients by peer, under ``as-sent`` and, where clients
            train for themselves first, ``fine-tuned``; empty if stopped or not asked.
    """

    ending: Ending
    rounds: int
    params: Params
    sha256: str
    personal: Mapping[str, Mapping[PeerId, Figures]] = field(default_factory=dict)


@dataclass
class Watcher:
    """Those who are told about a run as it goes on.

    Attributes:
        row: hears of every folded round.
        note: hears sentences worth showing.
        stop: asked after every round whether to stop there.
        evaluated: evaluate the model; otherwise rows have no held-out figures.
        begin: hears after which round the run goes on; 0 for a new one.
    """

    row: Callable[[Row], None] = lambda row: None
    note: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    evaluated: bool = True
    begin: Callable[[int], None] = lambda done: None


def simulate(setup: Setup, watcher: Watcher, journal: Journal | None = None) -> Result:
    """Train until the configured rounds are folded, or somebody stops it.

    Goes on where ``journal`` ends. One thread computes, here and in the workers: sums
    of floating-point numbers must not depend on the number of cores.

    Raises:
        QuorumError: too few answers can ever come; the message says what was refused.
        FedError: whatever the journal or a client raises.
    """
    torch.set_num_threads(1)
    with setup.engine() as engine, setup.config.hierarchy.open() as aggregator:
        sitting = _Sitting(setup, watcher, engine, aggregator)
        return sitting.run(journal or NoJournal())


@dataclass
class _Sitting:
    """One use of an engine for a run, from its start or from a checkpoint."""

    setup: Setup
    watcher: Watcher
    engine: Engine
    aggregator: Aggregator | None = None
    _troubles: dict[str, Refusal] = field(default_factory=dict)  # newest of each kind
    _told: set[str] = field(default_factory=set)  # kinds of odd probes, each once
    _reached: bool = False

    def run(self, journal: Journal) -> Result:
        config = self.setup.config
        link = VirtualLink(
            self.engine,
            self.setup.tasks,
            config.devices,
            config.network,
            config.availability,
            config.run.seed,
        )
        self._meter = Meter(
            lambda: (link.down_bytes, link.up_bytes), time.monotonic, self._evaluate
        )
        self._model = self.setup.dataset.new_model()
        rules: Rules[Any, Any] = Rules(
            config.strategy, config.pacer, config.gate, self.aggregator
        )
        braked = Braked(journal, self._begin, self._ending)
        coordinator = Coordinator(rules, link, braked, self._watch)
        self._meter.start()
        ending: Ending = "finished"
        try:
            coordinator.run(self.setup.start, config.run.rounds)
        except HaltError as halt:
            ending = halt.ending
        except QuorumError as error:
            raise QuorumError(f"{error}{self._explained()}") from error
        return self._result(ending, braked.saved[-1])

    def _result(self, ending: Ending, desk: Desk[Any, Any]) -> Result:
        params, version = desk.state.params, desk.state.version
        served = {} if ending == "stopped" else self._personal(desk)
        return Result(ending, version, params, digest(params), served)

    def _personal(self, desk: Desk[Any, Any]) -> dict[str, dict[PeerId, Figures]]:
        """Return how well clients are served by the models of ``desk``."""
        setup, config = self.setup, self.setup.config
        if not config.run.personal or not self.watcher.evaluated:
            return {}
        shards = {p: setup.tasks[p] for p in some(setup.tasks, config.run.personal)}
        tasks = own_tests(setup.dataset, shards, config.run.seed)
        if not tasks:
            return {}
        told = (config.strategy, desk.state, tasks, desk.kept)
        found = {"as-sent": personal(*told)}
        if config.run.finetune:
            tuning = Tuning(config.trainer, config.run.finetune)
            found["fine-tuned"] = personal(*told, tuning)
        return found

    def _evaluate(self, state: AnyState) -> Mapping[str, float]:
        run = self.setup.config.run
        due = state.version % run.eval_every == 0 or state.version == run.rounds
        if not due or not self.watcher.evaluated:
            return {}
        whole, model = self.setup.dataset.whole(), load(self._model, state.params)
        cut = getattr(state, "cut", 0)  # numbers held at a limit, by its strategy
        told = {"cut": float(cut)} if cut else {}
        figures = {**whole.evaluate(model), **told}
        return {k: v for k, v in figures.items() if k != "examples"}

    def _watch(self, fold: Fold[AnyState]) -> None:
        for refusal in fold.refused:
            if refusal.kind not in self._troubles:
                self.watcher.note(f"refused {refusal.peer}: {refusal.reason}")
            _log.info("refused %s: %s", refusal.peer, refusal.reason)
            self._troubles[refusal.kind] = refusal
        for kind, sentence in troubles_of(fold.folded).items():
            if kind not in self._told:
                self.watcher.note(sentence)
            self._told.add(kind)
        for peer, reason in fold.lost.items():
            _log.info("lost %s: %s", peer, reason)
        row = self._meter.take(fold)
        if row is not None:
            _log.info(
                "round %d: training loss %s, held-out %s, %d clients",
                row.round,
                row.train_loss,
                dict(row.eval),
                row.clients,
            )
            self._reached = self._reaches(row.eval)
            self.watcher.row(row)

    def _reaches(self, figures: Mapping[str, float]) -> bool:
        return 0 < self.setup.config.run.target <= figures.get("accuracy", 0.0)

    def _begin(self, desk: Desk[Any, Any]) -> Ending | None:
        """Tell where the run goes on; return ``"target"`` if it was there already."""
        done = desk.state.version
        self.watcher.begin(done)
        aims = done and self.setup.config.run.target
        return "target" if aims and self._reaches(self._evaluate(desk.state)) else None

    def _ending(self) -> Ending | None:
        if self._reached:
            return "target"
        return "stopped" if self.watcher.stop() else None

    def _explained(self) -> str:
        """Return what was refused and what may help, as the end of a sentence."""
        if not self._troubles:
            return "; see [pacer] quorum, patience_s and retries, and [availability]"
        kind, last = list(self._troubles.items())[-1]
        fix = "; the training diverged: lower trainer.lr, or set trainer.clip_norm"
        diverged = kind.endswith(("nan", "infinite", "huge"))
        return f"; last refused: {last.peer}, {last.reason}{fix if diverged else ''}"
