"""A FedKSeed client's round on a real language model, and what is not forward passes.

Ours is the trainer as it runs everywhere, on a task whose losses are timed. The papers'
recipe is put together from what it is made of, each measured here: it replays the
model from K seeded streams of normal numbers, and around every two forward passes goes
four times over the weights with a stream of its own. A few are measured, the rest is
reckoned: every one costs the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from clients.tasks import load_task
from clients.tasks.dataset import Dataset
from clients.trainers.around import Around
from clients.trainers.method import reproducible
from clients.trainers.sgd import SGD
from fedcore.params import Params
from fedcore.ring import ONE
from fedcore.strategy import Work
from fedcore.task import Batch
from sims.bench.frame import Options, Row, middle, versus
from strategies.fedkseed import FedKSeed

PEER = "peer"
STEPS = 200  # of a round, as the authors' program
PASSES = 4  # over the weights in a step of theirs: three probes' ends, one step
BATCH = 8
REPLAYS = 8  # measured


@dataclass(frozen=True, slots=True)
class Timed(Around):
    """A task that knows how long its forward passes took.

    Attributes:
        spent_s: seconds in each call of ``loss`` so far.
    """

    spent_s: list[float] = field(default_factory=list)

    @property
    def forward_s(self) -> float:
        """Seconds in ``loss`` so far."""
        return sum(self.spent_s)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        began_s = time.process_time()
        loss = self.task.loss(model, batch)
        self.spent_s.append(time.process_time() - began_s)
        return loss


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one client's round.

    Attributes:
        forward_s: in forward passes.
        rest_s: in everything else.
    """

    forward_s: float
    rest_s: float

    @property
    def share(self) -> float:
        """The rest in percent of the whole."""
        return 100 * self.rest_s / (self.forward_s + self.rest_s)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    windows: Sequence[int] = (32, 64, 128)
    steps, size = 40, 4096
    if options.quick:
        windows, steps, size = (64,), 4, 1024
    for window in windows:
        options.say(f"a FedKSeed round on {BATCH} x {window} tokens")
        flags = {"window": window, "batch_size": BATCH, "most_held_out": 1}
        dataset = load_task("lm-shakespeare", flags)
        ours = ours_of(dataset, size, steps)
        theirs = theirs_of(dataset.start(seed=0), ours.forward_s, size)
        yield from _rows(ours, theirs, f"{BATCH} x {window} tokens a step", size)


def _rows(ours: Round, theirs: Round, batch: str, size: int) -> Iterator[Row]:
    work = f"0.85 M-parameter LM, K = {size}, {STEPS} steps, {batch}, one thread"
    yield versus(
        "FedKSeed round: all but forward passes",
        work,
        ours.share,
        theirs.share,
        "% of the round",
        f"{1e3 * ours.rest_s:.0f} ms beside {1e3 * ours.forward_s:.0f} ms of forward "
        f"passes; theirs {theirs.rest_s:.1f} s, {REPLAYS} of their streams measured",
    )
    yield versus(
        "FedKSeed round, seconds",
        work,
        ours.forward_s + ours.rest_s,
        theirs.forward_s + theirs.rest_s,
        "s",
        "both with our forward passes",
    )


def ours_of(dataset: Dataset, size: int, steps: int) -> Round:
    """Return the round of one client that all directions have moved before.

    ``steps`` are measured, after one round to warm up; a round of ``STEPS`` takes its
    start once, and so many times the rest.
    """
    with reproducible():
        one, many = (_timed(dataset, size, count) for count in (1, 1 + steps))
    each = STEPS / steps
    forward_s = (many.forward_s - one.forward_s) * each
    return Round(forward_s, one.rest_s + (many.rest_s - one.rest_s) * each)


def _timed(dataset: Dataset, size: int, steps: int) -> Round:
    """Return the middle of three rounds of ``steps``; one more is not counted."""
    rules, task = FedKSeed(lr=1e-6, size=size, steps=steps), dataset.whole()
    work = rules.work(rules.init(dataset.start(seed=0)), PEER)
    moved = (torch.arange(size).view(1, -1) - size // 2) * (ONE // size)
    work = Work(1, work.params, steps, aux={"coefficients": moved}, hints=work.hints)
    rounds = [_one(Timed(task), work) for _ in range(4)][1:]
    return Round(
        middle([r.forward_s for r in rounds]), middle([r.rest_s for r in rounds])
    )


def _one(task: Timed, work: Work) -> Round:
    began_s = time.process_time()
    SGD()(task, work, PEER)
    whole_s = time.process_time() - began_s
    return Round(task.forward_s, whole_s - task.forward_s)


def theirs_of(params: Params, forward_s: float, size: int) -> Round:
    """Return the round of the papers' recipe with the same forward passes."""
    weights = [t.clone() for t in params.values()]

    def stream(seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        for t in weights:
            t.add_(torch.empty_like(t).normal_(generator=source), alpha=1e-9)

    with reproducible():
        spans = [_span(partial(stream, seed)) for seed in range(1 + REPLAYS)]
    pass_s = middle(spans[1:])
    return Round(forward_s, (size + PASSES * STEPS) * pass_s)


def _span(work: Callable[[], None]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s
