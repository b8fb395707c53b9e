"""What a peer keeps comes back to it, in every place where it may run."""

from dataclasses import dataclass, replace

import pytest
import torch
import trio
import trio.testing

from fedcore.coordinator import Coordinator, Rules, coordinate
from fedcore.disk import RealDisk
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.journal import FileJournal
from fedcore.pacing import Synchronous
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, peer_name
from p2p.memory import MemoryNetwork
from p2p.node import Node
from sims.engine import make_engine
from sims.flower.grid import InProcessGrid
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg

TASKS = {peer_name(i): Line(seed=i) for i in range(3)}
START = {"weight": torch.zeros(1, 4)}
PACER = Synchronous(cohort=3, quorum=3)
ROUNDS = 4


def counting(task, work, peer):
    """Answer with how often this peer has worked; only its memory knows."""
    times = work.kept.get("times", torch.zeros(())) + 1
    moved = {name: times.expand(t.shape).clone() for name, t in work.params.items()}
    keep = {"times": times} if times < 3 else {}
    return Update(peer, work.version, moved, 1, keep=keep)


@dataclass(frozen=True)
class Named(FedAvg):
    """FedAvg whose peers remember under a name."""

    memory: str = ""

    def work(self, state, peer):
        return replace(FedAvg.work(self, state, peer), hints={"memory": self.memory})


def check(state):
    """Count to 3, then keep nothing new: 3 stays as it was kept, so 1+2+3+3."""
    assert state.params["weight"].tolist() == [[9.0] * 4]


def test_in_the_loop():
    check(run_rounds(FedAvg(), counting, TASKS, START, ROUNDS))


@pytest.mark.parametrize("kind", ["loop", "forked"])
def test_on_the_virtual_clock(kind):
    with make_engine(counting, TASKS, 2, kind) as engine:
        link = VirtualLink(engine, TASKS)
        check(coordinate(FedAvg(), PACER, link, START, ROUNDS))


def test_after_a_restart(tmp_path):
    for rounds in (2, ROUNDS):
        journal = FileJournal(RealDisk(tmp_path), "run", payloads=False)
        link = VirtualLink(counting, TASKS)
        rules = Rules(FedAvg(), PACER)
        state = Coordinator(rules, link, journal).run(START, rounds)
    check(state)


def test_on_flower_nodes_each_run_of_a_name_of_its_own():
    app = client_app(lambda context: Line(seed=0), counting)
    with InProcessGrid(app, 3) as grid:
        for memory in ("first", "second"):
            link = FlowerLink(grid, LinkLimits(wait_for=3))
            rules = Named(memory=memory)
            check(coordinate(rules, PACER, link, START, ROUNDS))


def test_on_a_mesh():
    network, rules = MemoryNetwork(delay_s=0.2), FedAvg()
    nodes = [
        Node(network.join(peer), rules, counting, task, rules.init(START), cohort=3)
        for peer, task in TASKS.items()
    ]

    async def main():
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run, ROUNDS)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    for node in nodes:
        check(node.state)


def test_the_coordinator_measures_how_long_an_answer_took():
    seen = {}
    link = VirtualLink(counting, TASKS, {peer: 1.0 + i for i, peer in enumerate(TASKS)})

    def watch(fold):
        seen.update({u.peer: (u.metrics["took_s"], u.keep) for u in fold.folded})

    Coordinator(Rules(FedAvg(steps=2), PACER), link, watch=watch).run(START, 1)
    assert seen == {peer: (2.0 + 2.0 * i, {}) for i, peer in enumerate(TASKS)}
