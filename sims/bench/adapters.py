"""``fedcore bench adapters``: merging low-rank adapters of a language model.

Clients are speaking parts of Shakespeare's plays and train adapters of a small model;
what they learn is judged on parts that nobody trained on. Three questions: what a way
to merge loses of the mean of the products, whether the model is the worse for it, and
what offsite tuning costs. And one of speed: singular values without the product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from clients.tasks import load_task
from fedcore.config import from_flags
from fedcore.coordinator import Coordinator, Desk, NoJournal, Rules
from fedcore.params import Params
from fedcore.strategy import Update
from fedcore.task import load
from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row, versus
from sims.bench.merging import lost_rows, speed_row
from sims.bench.pool import mapped
from sims.engine import make_engine
from sims.report.chart import Line, Lines
from sims.runs.config import RunConfig, TaskChoice, configured
from sims.runs.run import Data, Setup, prepare
from sims.world.virtual import VirtualLink

ABOUT = (
    "Model: 0.85 million parameters, adapters of rank 8 on the attention (`lora`), or "
    "its first and last layer (`offsite`); 8 clients, 6 rounds of 12 batches. `wide`: "
    "the model keeps rank 32, of which clients train 8.",
    "Figures are perplexities on speaking parts that nobody trained on, medians over "
    "seeds; the step size of each is the best of two, on a seed not used afterwards.",
    "`lost in merging`: |what was made - the mean of the products| / |that mean - what "
    "it was before|, over all adapters of one round of long local training.",
    "Ratio: the rival's figure over ours; below 1 we lost.",
)
TASK = ("task.name=lm-shakespeare", "task.most_held_out=100")
LORA = (*TASK, "task.tune=lora", "task.rank=8")
WIDE = (*TASK, "task.tune=lora", "task.rank=32")  # of which clients train 8
OFFSITE = (*TASK, "task.offsite=0.5")
CLIENTS = ("run.clients=8", "partition=natural", "strategy.steps=12")
GRADES = "strategy.ranks=4"  # ranks 8, 4, 2 and 1
RATES: Mapping[str, Sequence[float]] = {"lora": (0.3, 1.0), "offsite": (0.1, 0.3)}
CASES: Mapping[str, tuple[str, ...]] = {
    "fedavg": (*LORA, "strategy.name=fedavg"),
    "flora": (*LORA, "strategy.name=flora"),
    "lego": (*LORA, "strategy.name=lego"),
    "flora, 4 ranks": (*LORA, "strategy.name=flora", GRADES),
    "padded, 4 ranks": (*LORA, "strategy.name=flora", GRADES, "strategy.merge=pad"),
    "flora, wide": (*WIDE, "strategy.name=flora", "strategy.rank=8"),
    "offsite": (*OFFSITE, "strategy.name=fedavg"),
    "ends in the whole": (*TASK, "task.offsite=1", "strategy.name=fedavg"),
}
MEETS = (
    ("flora", "fedavg"),
    ("lego", "fedavg"),
    ("flora, 4 ranks", "padded, 4 ranks"),
    ("flora, 4 ranks", "flora"),
    ("flora, wide", "fedavg"),
)
FIRST_FRESH = 100  # seeds from here on were not tuned on
PROCESSES = 2

Points = Sequence[Mapping[str, float]]  # held-out figures before and after each round


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: its settings, its rounds, and the seed of all that is drawn."""

    flags: tuple[str, ...]
    rounds: int
    seed: int


def rows(options: Options) -> Iterator[Row]:
    """Train, draw, and yield rows as they are ready."""
    yield speed_row(options)
    options.say("what merging loses in one round")
    yield from lost_rows(*round_of(options))
    names = ("fedavg", "flora") if options.quick else tuple(CASES)
    found = {}
    for name in names:
        options.say(name)
        found[name] = look(name, options)
    yield from (meeting(a, b, found) for a, b in MEETS if {a, b} <= found.keys())
    if "offsite" in found:
        yield from offsite_rows(found)
    draw(options, figure(found))


BENCH = Bench(
    "merging low-rank adapters of a language model; offsite tuning", ABOUT, rows
)


def look(name: str, options: Options) -> list[Points]:
    """Return the figures of case ``name`` with its best step size, one list a seed."""
    rounds, seeds = (2, 1) if options.quick else (6, 3)
    rates = RATES["lora" if "task.tune=lora" in CASES[name] else "offsite"]
    tries = rates[-1:] if options.quick else rates
    flags = [(*CASES[name], *CLIENTS, f"trainer.lr={lr}") for lr in tries]
    _data(_config(Run(flags[0], rounds, 0)).task)  # once, before any process
    best = flags[0]
    if len(flags) > 1:
        first = mapped(trained, [Run(f, rounds, 0) for f in flags], PROCESSES)
        best = min(zip(flags, first, strict=True), key=lambda p: _last(p[1]))[0]
    fresh = [Run(best, rounds, FIRST_FRESH + i) for i in range(seeds)]
    return mapped(trained, fresh, 1 if options.quick else PROCESSES)


def trained(run: Run) -> Points:
    """Train in this process, on one thread; return the figures of every round."""
    torch.set_num_threads(1)
    config = _config(run)
    setup = prepare(config, _data(config.task))
    watching = _Watching(setup)
    with make_engine(config.trainer, setup.tasks, workers=1) as engine:
        world = (config.devices, config.network, config.availability)
        link = VirtualLink(engine, setup.tasks, *world, config.run.seed)
        rules: Rules[Any, Any] = Rules(config.strategy, config.pacer, config.gate)
        Coordinator(rules, link, watching).run(setup.start, run.rounds)
    return watching.points


@dataclass
class _Watching(NoJournal):
    """A journal that keeps the figures of every round, and those before the first."""

    setup: Setup
    points: list[Mapping[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._evaluate(self.setup.start)

    def folded(self, desk: Desk[Any, Any]) -> None:
        self._evaluate(desk.state.params)

    def _evaluate(self, params: Params) -> None:
        dataset = self.setup.dataset
        model = load(dataset.new_model(), params)
        self.points.append(dataset.whole().evaluate(model))


def _config(run: Run) -> RunConfig:
    more = (f"run.rounds={run.rounds}", f"run.seed={run.seed}")
    return configured(from_flags((*run.flags, *more)))


_loaded: dict[str, Data] = {}


def _data(task: TaskChoice) -> Data:
    """Return the data of ``task``; one process loads them once."""
    if str(task) not in _loaded:
        _loaded[str(task)] = Data(task, load_task(task.name, task.settings))
    return _loaded[str(task)]


def _last(points: Points) -> float:
    return points[-1]["perplexity"]


def _middle(found: Sequence[Points], name: str = "perplexity", at: int = -1) -> float:
    return float(median(points[at][name] for points in found))


def meeting(ours: str, other: str, found: Mapping[str, list[Points]]) -> Row:
    """Return the row of two ways to merge."""
    a, b = found[ours], found[other]
    won = sum(_last(x) < _last(y) for x, y in zip(a, b, strict=True))
    start = _middle(a, at=0)
    note = f"from {start:.1f} untrained; better in {won} of {len(a)} seeds"
    work = f"adapters after {len(a[0]) - 1} rounds"
    return versus(
        f"{ours} vs {other}", work, _middle(a), _middle(b), "perplexity", note
    )


def offsite_rows(found: Mapping[str, list[Points]]) -> Iterator[Row]:
    """Yield what offsite tuning gains, and what it gives up."""
    ends, full = found["offsite"], found["ends in the whole"]
    put_back, inside = _middle(ends), _middle(ends, "emulator_perplexity")
    before = _middle(ends, "emulator_perplexity", 0)
    work = "ends trained with half of the middle layers"
    note = f"the emulator was {before:.1f} untrained"
    for rival, perplexity, told in (
        ("untrained", _middle(ends, at=0), ""),
        ("emulator", inside, note),
        ("ends trained in the whole", _middle(full), ""),
    ):
        name = f"offsite, put back vs {rival}"
        yield versus(name, work, put_back, perplexity, "perplexity", told)


def round_of(options: Options) -> tuple[list[Update], Params]:
    """Return what clients answer to the first model after long work, and the model."""
    long = (f"strategy.steps={12 if options.quick else 100}",)
    calm = (f"trainer.lr={RATES['lora'][0]}",)  # nobody diverges
    config = _config(Run((*CASES["flora"], *CLIENTS[:2], *long, *calm), 1, 0))
    setup = prepare(config, _data(config.task))
    rules, tasks, train = config.strategy, setup.tasks, config.trainer
    state = rules.init(setup.start)
    updates = [train(tasks[p], rules.work(state, p), p) for p in tasks]
    return updates, setup.start


def figure(found: Mapping[str, list[Points]]) -> Lines:
    """Return perplexity by round, the median over seeds."""
    curves = [
        Line.of(name, [(i, _middle(runs, at=i)) for i in range(len(runs[0]))])
        for name, runs in found.items()
    ]
    return Lines(
        "bench-adapters-perplexity",
        "A language model, 8 speaking parts of Shakespeare",
        "Perplexity on parts that nobody trained on; the model of `offsite` is whole.",
        "round",
        "",
        tuple(curves),
    )
