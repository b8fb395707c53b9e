"""Training curves on real text: what a forward pass, a byte and a second buy.

A pretrained language model is tuned to parts of Shakespeare's plays, one part a client,
and judged on parts that nobody trains on. Every method gets the same forward passes; a
step of descent counts three, as its backward pass costs two.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from math import inf, isfinite
from typing import Any

import torch

from clients.tasks import load_task
from fedcore.config import from_flags
from fedcore.coordinator import Coordinator, Desk, NoJournal, Rules
from fedcore.errors import ProtocolError, QuorumError
from fedcore.task import load
from sims.bench.pool import mapped
from sims.engine import make_engine
from sims.runs.config import RunConfig, configured
from sims.runs.run import Data, Setup, prepare
from sims.world.virtual import VirtualLink

PROCESSES = 2
COHORT = 2
FIRST_FRESH = 100  # seeds from here on were not tuned on
PROBE, DESCENT = 2, 3  # forward passes that a step costs
TEXT = (
    *("task.name=lm-shakespeare", "task.window=32", "task.most_held_out=200"),
    *("partition=natural", "partition.min_examples=40", "run.clients=20"),
    *("run.personal=0", f"pacer.cohort={COHORT}", "trainer.name=sgd"),
)
LORA = ("task.tune=lora",)


@dataclass(frozen=True, slots=True)
class Method:
    """One way to learn.

    Attributes:
        flags: ``--set`` words of its own.
        passes: forward passes that a step costs.
        rate: the key of its step size.
        rates: step sizes to choose from; those of ``like`` if empty.
        like: the method whose step size it takes over; "" chooses its own.
        often: how many times as many rounds it takes, each so much shorter.
    """

    flags: tuple[str, ...]
    passes: int
    rate: str
    rates: tuple[float, ...] = ()
    like: str = ""
    often: int = 1


MEZO = "MeZO, fresh Gaussian"
GAUSSIAN = "pool, Gaussian"
SIGNS = "pool, independent signs"
HADAMARD = "pool, Hadamard"
LORA_FEDAVG = "LoRA-FedAvg"
FEDAVG = "FedAvg, whole model"
FERRET = "Ferret"


def _pool(kind: str) -> Method:
    flags = ("strategy.name=fedkseed", "strategy.size=1024", f"strategy.pool={kind}")
    return Method(flags, PROBE, "strategy.lr", like=MEZO)


METHODS: Mapping[str, Method] = {
    MEZO: Method(
        ("strategy.name=mezo", "strategy.pool=gaussian"),
        PROBE,
        "strategy.lr",
        (1e-4, 2e-4, 4e-4),
    ),
    GAUSSIAN: _pool("gaussian"),
    SIGNS: _pool("signs"),
    HADAMARD: _pool("hadamard"),
    LORA_FEDAVG: Method(
        ("strategy.name=fedavg", *LORA), DESCENT, "trainer.lr", (0.1, 0.3, 0.6)
    ),
    FEDAVG: Method(("strategy.name=fedavg",), DESCENT, "trainer.lr", (0.1, 0.3, 1.0)),
    FERRET: Method(
        ("strategy.name=ferret",), DESCENT, "trainer.lr", like=FEDAVG, often=4
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done.

    Attributes:
        rounds: of every run.
        passes: forward passes of a client in a round.
        seeds: fresh ones, after tuning.
    """

    rounds: int
    passes: int
    seeds: int


FULL, QUICK = Size(6, 120, 3), Size(2, 12, 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A run after some rounds.

    Attributes:
        passes: forward passes of all clients together.
        up_bytes: sent by one client that takes part in every round.
        down_bytes: sent to it, without the first model.
        cpu_s: processor seconds of all, without evaluations.
        loss: on held-out parts.
    """

    passes: float
    up_bytes: float
    down_bytes: float
    cpu_s: float
    loss: float


Curve = tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A method with a step size and a seed."""

    method: Method
    rate: float
    seed: int
    size: Size


@dataclass
class _Watching(NoJournal):
    """A journal that keeps nothing but marks."""

    tried: Tried
    setup: Setup
    link: VirtualLink
    began_s: float
    marks: list[Mark] = field(default_factory=list)

    def folded(self, desk: Desk[Any, Any]) -> None:
        """Evaluate, and leave the time of it out."""
        paused_s = time.process_time()
        passes = self.tried.size.passes // self.tried.method.often
        done = desk.state.version * passes * COHORT
        self.marks.append(
            Mark(
                float(done),
                self.link.up_bytes / COHORT,
                self.link.down_bytes / COHORT,
                paused_s - self.began_s,
                loss_of(self.setup, desk.state.params),
            )
        )
        self.began_s += time.process_time() - paused_s


def loss_of(setup: Setup, params: Mapping[str, torch.Tensor]) -> float:
    """Return the loss of ``params`` on held-out parts."""
    model = load(setup.dataset.new_model(), params)
    return setup.dataset.whole().evaluate(model)["loss"]


def curve(tried: Tried) -> list[tuple[float, ...]]:
    """Run ``tried`` in this process, on one thread, and return its marks.

    A run that breaks down ends where it did.
    """
    torch.set_num_threads(1)
    config = config_of(tried)
    setup = prepare(config, data_of(config))
    start = Mark(0.0, 0.0, 0.0, 0.0, loss_of(setup, setup.start))
    with make_engine(config.trainer, setup.tasks, workers=1) as engine:
        link = VirtualLink(engine, setup.tasks, seed=config.run.seed)
        watching = _Watching(tried, setup, link, time.process_time())
        rules: Rules[Any, Any] = Rules(config.strategy, config.pacer, config.gate)
        with suppress(ProtocolError, QuorumError):  # what was sent was refused
            Coordinator(rules, link, watching).run(setup.start, config.run.rounds)
    return [astuple(mark) for mark in (start, *watching.marks)]


def config_of(tried: Tried) -> RunConfig:
    """Return the configuration of a run."""
    method, size = tried.method, tried.size
    steps = size.passes // method.often // method.passes
    own = (f"strategy.steps={steps}", f"run.rounds={size.rounds * method.often}")
    rate = (f"{method.rate}={tried.rate}", f"run.seed={tried.seed}")
    return configured(from_flags([*TEXT, *method.flags, *own, *rate]))


_loaded: dict[str, Data] = {}


def data_of(config: RunConfig) -> Data:
    """Return the data of ``config``; one process loads them once."""
    task = config.task
    if str(task) not in _loaded:
        _loaded[str(task)] = Data(task, load_task(task.name, task.settings))
    return _loaded[str(task)]


def curves(tries: Sequence[Tried]) -> list[Curve]:
    """Return the curve of every one of ``tries``; data are loaded once before."""
    for tried in tries:
        data_of(config_of(tried))
    found = mapped(curve, tries, PROCESSES)
    return [tuple(Mark(*mark) for mark in marks) for marks in found]


def best_rates(size: Size) -> dict[str, float]:
    """Return the step size of every method: the best of its grid, or another's."""
    grid = [(name, rate) for name, m in METHODS.items() for rate in m.rates]
    tries = [Tried(METHODS[name], rate, 0, size) for name, rate in grid]
    ends = dict(zip(grid, map(end_of, curves(tries)), strict=True))
    chosen = {
        name: min((end, rate) for (whose, rate), end in ends.items() if whose == name)
        for name, method in METHODS.items()
        if method.rates
    }
    return {name: chosen[m.like or name][1] for name, m in METHODS.items()}


def end_of(found: Curve) -> float:
    """Return the last loss of ``found``; infinite where there is none."""
    last = found[-1].loss if len(found) > 1 else inf
    return last if isfinite(last) else inf
