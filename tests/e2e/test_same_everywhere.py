"""One strategy object and every runner: the same bits (law 1), for all strategies."""

from functools import cache

import pytest
import torch
import trio
import trio.testing

from clients.trainers.sgd import SGD
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
from tests.e2e.normed import Normed

PEERS, ROUNDS = 5, 3
TRAINER = SGD(lr=0.05)
TASKS = {peer_name(i): Normed(seed=i) for i in range(PEERS)}
PACER = Synchronous(cohort=PEERS, quorum=PEERS)
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def rules_of(name):
    settings = {"local_lr": TRAINER.lr} if name == "scaffold" else {}
    return STRATEGIES[name](steps=3, **settings)


@cache
def start():
    g = torch.Generator().manual_seed(0)
    like = params_of(Normed(seed=0).model())
    return {
        name: torch.randn(t.shape, generator=g).abs() if name.startswith("1.") else
        0.5 * torch.randn(t.shape, generator=g)
        for name, t in like.items()
    }  # fmt: skip


@cache
def in_the_loop(name):
    return digest(run_rounds(rules_of(name), TRAINER, TASKS, start(), ROUNDS).params)


def through_flower(rules, grid):
    link = FlowerLink(grid, LinkLimits(wait_for=PEERS))
    return digest(coordinate(rules, PACER, link, start(), ROUNDS).params)


def share_of(context):
    return Normed(seed=int(context.node_config["partition-id"]))


@every_strategy
def test_the_model_moves(name):
    """Or else the equalities below would say nothing."""
    assert in_the_loop(name) != digest(start())


@every_strategy
def test_virtual_clock(name):
    speeds = {peer: 1.0 + i for i, peer in enumerate(TASKS)}
    link = VirtualLink(TRAINER, TASKS, speeds)
    state = coordinate(rules_of(name), PACER, link, start(), ROUNDS)
    assert digest(state.params) == in_the_loop(name)


@every_strategy
def test_flower_in_one_process(name):
    with InProcessGrid(client_app(share_of, TRAINER), PEERS) as grid:
        assert through_flower(rules_of(name), grid) == in_the_loop(name)


@every_strategy
def test_mesh_in_memory(name):
    network, rules = MemoryNetwork(delay_s=0.2), rules_of(name)
    nodes = [
        Node(
            network.join(peer),
            rules,
            TRAINER,
            task,
            rules.init(start()),
            cohort=PEERS,
            round_s=60.0,
        )
        for peer, task in TASKS.items()
    ]

    async def main():
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run, ROUNDS)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert {digest(node.state.params) for node in nodes} == {in_the_loop(name)}


@pytest.mark.slow
def test_flower_on_ray():
    """All strategies in one ServerApp: starting Ray is what takes the time."""
    from flwr.serverapp import ServerApp

    from sims.flower.ray import run_on_ray

    server, got = ServerApp(), {}

    @server.main()
    def main(grid, context):
        for name in STRATEGIES:
            got[name] = through_flower(rules_of(name), grid)

    run_on_ray(server, client_app(share_of, TRAINER), PEERS)
    assert got == {name: in_the_loop(name) for name in STRATEGIES}
