"""What every ``fedcore.coordinator.Link`` promises."""

from contextlib import contextmanager
from math import inf

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator
from fedcore.desk import Rules, Sent
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Work, peer_name
from sims.engine import make_engine
from sims.flower.grid import InProcessGrid
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg

START = {"weight": torch.zeros(1, 4)}
PEERS = [peer_name(i) for i in range(4)]
TASKS = {peer: Line(seed=i) for i, peer in enumerate(PEERS)}
TRAINER = SGD(lr=0.05)
WORK = Work(0, START, steps=2)


@contextmanager
def virtual():
    with make_engine(TRAINER, TASKS, 1) as engine:
        yield VirtualLink(engine, TASKS)


@contextmanager
def flower(workers=0):
    def line_of(context):
        return Line(seed=context.node_config["partition-id"])

    client = client_app(line_of, TRAINER)
    with InProcessGrid(client, len(PEERS), workers=workers) as grid:
        yield FlowerLink(grid, LinkLimits(wait_for=len(PEERS), poll_s=0.001))


LINKS = {"virtual": virtual, "flower": flower, "flower, 2 workers": lambda: flower(2)}


@pytest.fixture(params=LINKS)
def link(request):
    with LINKS[request.param]() as link:
        yield link


def drained(link, count):
    """Return all updates until ``count`` peers have answered or are lost."""
    updates = []
    while count > 0:
        arrivals = link.receive(link.now_s() + 60)
        updates += arrivals.updates
        count -= len(arrivals.updates) + len(arrivals.lost)
    return updates


def test_idle_peers_are_sorted_and_those_at_work_are_not_among_them(link):
    assert list(link.idle()) == PEERS
    link.send(PEERS[2], WORK)
    assert list(link.idle()) == [PEERS[0], PEERS[1], PEERS[3]]
    drained(link, 1)
    assert list(link.idle()) == PEERS


def test_every_work_is_answered_once_by_its_peer(link):
    link.idle()
    for peer in PEERS:
        link.send(peer, WORK)
    updates = drained(link, len(PEERS))
    assert sorted(u.peer for u in updates) == PEERS
    for update in updates:
        want = TRAINER(TASKS[update.peer], WORK, update.peer)
        assert digest(update.payload) == digest(want.payload)
        assert (update.version, update.examples) == (0, want.examples)
    assert not link.receive(link.now_s() + 0.01).updates


def test_time_never_goes_back_and_a_deadline_is_kept(link):
    link.idle()
    begin = link.now_s()
    assert not link.receive(begin + 0.02).updates
    assert link.now_s() >= begin + 0.02
    link.send(PEERS[0], WORK)
    before = link.now_s()
    drained(link, 1)
    assert link.now_s() >= before


def test_a_resumed_link_gives_the_answers_that_were_owed(link):
    link.resume({PEERS[1]: Sent(WORK, 3.0)}, 100.0)
    assert link.now_s() >= 100.0
    link.idle()
    assert PEERS[1] not in link.idle()
    (update,) = drained(link, 1)
    want = TRAINER(TASKS[PEERS[1]], WORK, PEERS[1])
    assert digest(update.payload) == digest(want.payload)


def test_synchronous_rounds_have_the_bits_of_the_loop(link):
    want = run_rounds(FedAvg(steps=2), TRAINER, TASKS, START, 3)
    rules = Rules(FedAvg(steps=2), Synchronous(cohort=4))
    got = Coordinator(rules, link).run(START, 3)
    assert digest(got.params) == digest(want.params)


def test_a_pacer_without_deadlines_works(link):
    pacer = Buffered(size=2)
    assert pacer.deadline_s(pacer.init()) == inf
    rules = Rules(FedAvg(steps=2), pacer)
    assert Coordinator(rules, link).run(START, 5).version == 5
