"""The same strategy with no server: replicas on an in-memory network."""

import pytest
import torch
import trio
import trio.testing

from clients.trainers.sgd import SGD
from fedcore.errors import QuorumError
from fedcore.rounds import run_rounds
from p2p.memory import MemoryNetwork
from p2p.node import LEDGER, Node
from strategies.fedavg import FedAvg

STRATEGY, TRAINER = FedAvg(steps=3), SGD(lr=0.05)


def run_mesh(tasks, start, rounds, network, round_s=60.0):
    state = STRATEGY.init(start) if isinstance(start, dict) else start

    async def main():
        nodes = [
            Node(
                network.join(peer),
                STRATEGY,
                TRAINER,
                task,
                state,
                cohort=len(tasks),
                round_s=round_s,
            )
            for peer, task in tasks.items()
        ]
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run, rounds)
        return [node.state for node in nodes]

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_mesh_equals_reference_bit_for_bit(start, tasks):
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=5)
    for state in run_mesh(tasks, start, 5, MemoryNetwork(delay_s=0.2)):
        assert torch.equal(state.params["weight"], reference.params["weight"])


def test_mesh_heals_around_one_cut_link(start, tasks):
    network = MemoryNetwork(delay_s=0.2, cut={frozenset(("peer0", "peer1"))})
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=3)
    for state in run_mesh(tasks, start, 3, network):
        assert torch.equal(state.params["weight"], reference.params["weight"])


def test_mesh_without_quorum_says_so(start, tasks):
    pairs = {frozenset((a, b)) for a in tasks for b in tasks if a < b}
    with pytest.raises(ExceptionGroup) as caught:
        run_mesh(tasks, start, 1, MemoryNetwork(cut=pairs), round_s=30.0)
    assert caught.group_contains(QuorumError)


def test_a_peer_that_talks_nonsense_does_not_end_the_others(start, tasks):
    async def nonsense(peer, body):
        return b"nonsense"

    network = MemoryNetwork(delay_s=0.2)
    network.join("stranger")  # serves nothing at all
    network.join("liar").serve(LEDGER, nonsense)
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=2)
    for state in run_mesh(tasks, start, 2, network):
        assert torch.equal(state.params["weight"], reference.params["weight"])


def test_a_mesh_goes_on_from_where_it_stopped(start, tasks):
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=3)
    begun = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=2)
    for state in run_mesh(tasks, begun, 1, MemoryNetwork()):
        assert torch.equal(state.params["weight"], reference.params["weight"])
