"""Fedcore itself, through its own coordinator, virtual clock and engine."""

import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from clients.tasks.dataset import Dataset, Federation
from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator, Desk, Fold, NoJournal, Rules
from fedcore.pacing import Synchronous
from fedcore.params import zeros_like
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task
from sims.bench.case import Case, Weights
from sims.bench.peers.nets import first, net, plain, shaped
from sims.bench.peers.wire import serve
from sims.engine import make_engine
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg


def answer_at_once(task: Task, work: Work, peer: PeerId) -> Update:
    """Train nothing: what is left is the engine's own cost."""
    return Update(peer, work.version, zeros_like(work.params), 1)


def federation(case: Case) -> Federation:
    """Return the peers of ``case``; those beyond the data hold rows again."""
    data = shaped(case)
    tensors = {n: torch.from_numpy(getattr(data, n)) for n in data.__slots__}
    dataset = Dataset(
        case.name,
        (tensors["x"], tensors["y"]),
        (tensors["test_x"], tensors["test_y"]),
        lambda: net(case.model),
        batch_size=case.batch,
    )
    total = len(data.x)
    rows = min(case.rows, total)
    parts = [case.rows_of(c, total)[:rows] for c in range(max(1, total // rows))]
    return Federation(dataset, parts[: case.clients], case.clients)


@dataclass
class Kept(NoJournal):
    """Goes on where the last block of rounds stopped."""

    desk: Desk[Any, Any] | None = None

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], tuple[()]]:
        return self.desk or begin, ()

    def save(self, desk: Desk[Any, Any]) -> None:
        self.desk = desk


class Ours:
    """One case on one engine."""

    def __init__(self, case: Case, workers: int) -> None:
        tasks = federation(case)
        trainer = answer_at_once if case.model == "none" else SGD(lr=case.lr)
        self.case, self.kept = case, Kept()
        engine = make_engine(trainer, tasks, workers=workers)
        rules = Rules(FedAvg(epochs=case.epochs), Synchronous(cohort=case.cohort))
        link = VirtualLink(engine, tasks)
        self.coordinator = Coordinator(rules, link, self.kept, self.watch)
        self.stamps: list[float] = []

    def watch(self, fold: Fold[Any]) -> None:
        """Note the end of a round."""
        if fold.folded:
            self.stamps.append(time.perf_counter())

    def rounds(self, count: int) -> list[float]:
        self.stamps = [time.perf_counter()]
        done = self.kept.desk.state.version if self.kept.desk else 0
        self.coordinator.run(first(self.case.model), done + count)
        return [b - a for a, b in pairwise(self.stamps)]

    def weights(self) -> Weights:
        desk = self.kept.desk
        return plain(desk.state.params if desk else first(self.case.model))


if __name__ == "__main__":
    torch.set_num_threads(1)
    workers = int(sys.argv[1])
    serve(lambda case: Ours(case, workers), "fedcore", "torch")
