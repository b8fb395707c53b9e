"""What a round through Flower sends when the first model goes by its name, or whole.

Nodes are those of the in-process grid and answer at once, so that nothing is measured
but the way there and back.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from flwr.app import Context, Message

from fedcore.coordinator import Coordinator
from fedcore.desk import Rules
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.pacing import Synchronous
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task
from sims.bench.frame import Options, Row, middle, versus
from sims.flower.grid import InProcessGrid
from sims.line import Line
from strategies.fedkseed import FedKSeed

QUICK, FULL = 1_000_000, 20_000_000  # weights
NODES, ROUNDS = 4, 6
LIMITS = LinkLimits(wait_for=NODES, poll_s=0.001)


class Counting(InProcessGrid):
    """A grid that counts the bytes of what goes to its nodes."""

    sent_bytes = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        listed = list(messages)
        contents = [record for m in listed for record in m.content.values()]
        self.sent_bytes += sum(record.count_bytes() for record in contents)
        return super().push_messages(listed)


@dataclass(frozen=True)
class Watched:
    """A strategy, and when and after how many bytes each of its rounds was folded."""

    rules: FedKSeed
    grid: Counting
    whole: bool
    marks: list[tuple[float, int]] = field(default_factory=list)
    needs: Literal["sum"] = "sum"

    def init(self, params: Params) -> Any:
        return self.rules.init(params)

    def work(self, state: Any, peer: PeerId) -> Work:
        work = self.rules.work(state, peer)
        hints = {k: v for k, v in work.hints.items() if k != "base"}
        return replace(work, hints=hints) if self.whole else work

    def expects(self, work: Work) -> Params:
        return self.rules.expects(work)

    def apply(self, state: Any, updates: Sequence[Update]) -> Any:
        after = self.rules.apply(state, updates)
        self.marks.append((time.perf_counter(), self.grid.sent_bytes))
        return after


def rows(options: Options) -> Iterator[Row]:
    """Yield the bytes and the seconds of a round, by name and whole."""
    weights = QUICK if options.quick else FULL
    options.say("a first model by name")
    named, whole = (measured(weights, whole=whole) for whole in (False, True))
    work = f"{NODES} in-process nodes, {weights / 1e6:.0f} M weights, K = 1024"
    title = "Flower round, model by name vs whole"
    note = f"by name {named[0] / 1e6:.0f} MB once, in the first round"
    for at, unit, scale in ((1, "kB/round", 1e-3), (2, "s/round", 1.0)):
        yield versus(title, work, named[at] * scale, whole[at] * scale, unit, note)


def measured(weights: int, *, whole: bool) -> tuple[float, float, float]:
    """Return the bytes of the first round, and bytes and seconds of a later one."""
    start = {f"layer{i}": torch.zeros(weights // 20) for i in range(20)}
    with TemporaryDirectory(prefix="fedcore-") as folder:

        def line_of(context: Context) -> Task:
            context.node_config["bases"] = str(Path(folder))
            return Line(seed=0)

        with Counting(client_app(line_of, _answer), NODES) as grid:
            rules = Watched(FedKSeed(size=1024, steps=1), grid, whole)
            pacer = Synchronous(cohort=NODES, quorum=NODES)
            link = FlowerLink(grid, LIMITS)
            Coordinator(Rules(rules, pacer), link).run(start, ROUNDS)
    first, *_, last = rules.marks
    times_s = [time_s for time_s, _ in rules.marks]
    round_s = middle([b - a for a, b in pairwise(times_s)])
    return float(first[1]), (last[1] - first[1]) / (ROUNDS - 1), round_s


def _answer(task: Task, work: Work, peer: PeerId) -> Update:
    payload = {"coefficients": torch.zeros(1024)}
    return Update(peer, work.version, payload, 10, {"loss": 1.0, "steps": 1.0})
