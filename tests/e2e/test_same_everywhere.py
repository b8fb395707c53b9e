"""One strategy object and every runner: the same bits (law 1), for all strategies."""

from functools import cache, partial

import pytest
import torch
import trio
import trio.testing

from fedcore.coordinator import coordinate
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import peer_name
from fedcore.task import params_of
from p2p.memory import MemoryNetwork
from p2p.node import Node
from sims.flower.grid import InProcessGrid
from sims.world.virtual import VirtualLink
from strategies import STRATEGIES
from tests.cases import TRAINER, digest_of, rules_of, task_of

PEERS, ROUNDS = 5, 3
PACER = Synchronous(cohort=PEERS, quorum=PEERS)
# All tests of one strategy after each other, so that they share its ``in_the_loop``.
every_strategy = pytest.mark.parametrize("name", STRATEGIES, scope="module")


# A mesh takes longest, and what it adds is the wire: one of each form of answer and of
# memory is enough for the quick tests.
QUICK = ("fedavg", "fedspine", "kafal", "krum", "m-sgc", "one-byte", "scaffold")
MESHED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in STRATEGIES
]


def tasks_of(name):
    return {peer_name(i): task_of(name, i) for i in range(PEERS)}


@cache
def start(name):
    g = torch.Generator().manual_seed(0)
    like = params_of(task_of(name, 0).model())
    return {
        name: torch.randn(t.shape, generator=g).abs() if name.startswith("1.") else
        0.5 * torch.randn(t.shape, generator=g)
        for name, t in like.items()
    }  # fmt: skip


@cache
def in_the_loop(name):
    rules, tasks = rules_of(name, steps=3), tasks_of(name)
    return digest_of(run_rounds(rules, TRAINER, tasks, start(name), ROUNDS))


def through_flower(name, grid):
    link, rules = FlowerLink(grid, LinkLimits(wait_for=PEERS)), rules_of(name, steps=3)
    return digest_of(coordinate(rules, PACER, link, start(name), ROUNDS))


def client_for(task):
    """Return a ClientApp whose node i learns ``task(i)``."""
    return client_app(lambda c: task(int(c.node_config["partition-id"])), TRAINER)


@every_strategy
def test_the_model_moves(name):
    """Or else the equalities below would say nothing."""
    assert in_the_loop(name) != digest_of(rules_of(name).init(start(name)))


@pytest.mark.parametrize("name", ["adaptive", "briggs", "ifca", "ocfl", "sattler"])
def test_peers_have_different_models_by_then(name):
    """Or else these would be FedAvg here, in all that is compared below."""
    rules = rules_of(name, steps=3)
    state = run_rounds(rules, TRAINER, tasks_of(name), start(name), ROUNDS - 1)
    assert len({digest(rules.work(state, p).params) for p in tasks_of(name)}) > 1


@every_strategy
def test_virtual_clock(name):
    tasks = tasks_of(name)
    speeds = {peer: 1.0 + i for i, peer in enumerate(tasks)}
    link = VirtualLink(TRAINER, tasks, speeds)
    rules = rules_of(name, steps=3)
    state = coordinate(rules, PACER, link, start(name), ROUNDS)
    assert digest_of(state) == in_the_loop(name)


@every_strategy
def test_flower_in_one_process(name):
    app = client_for(partial(task_of, name))
    with InProcessGrid(app, PEERS) as grid:
        assert through_flower(name, grid) == in_the_loop(name)


@pytest.mark.parametrize("name", MESHED, scope="module")
def test_mesh_in_memory(name):
    network, rules = MemoryNetwork(delay_s=0.2), rules_of(name, steps=3)
    nodes = [
        Node(
            network.join(peer),
            rules,
            TRAINER,
            task,
            rules.init(start(name)),
            cohort=PEERS,
            round_s=60.0,
        )
        for peer, task in tasks_of(name).items()
    ]

    async def main():
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run, ROUNDS)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert {digest_of(node.state) for node in nodes} == {in_the_loop(name)}


@pytest.mark.slow
def test_flower_on_ray():
    """All with one kind of task in one ServerApp: starting Ray takes the time."""
    from flwr.serverapp import ServerApp

    from sims.flower.ray import run_on_ray

    for kind in {type(task_of(name, 0)) for name in STRATEGIES}:
        names = [name for name in STRATEGIES if type(task_of(name, 0)) is kind]
        server, got = ServerApp(), {}

        @server.main()
        def main(grid, context, names=names, got=got):
            for name in names:
                got[name] = through_flower(name, grid)

        run_on_ray(server, client_for(kind), PEERS)
        assert got == {name: in_the_loop(name) for name in names}
