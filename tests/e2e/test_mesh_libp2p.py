"""The rounds of ``p2p.node`` over real sockets: the bits of the reference loop."""

from contextlib import AsyncExitStack

import pytest
import torch
import trio

from clients.trainers.sgd import SGD
from fedcore.rounds import run_rounds
from p2p.identity.keys import Key
from p2p.libp2p.transport import open_libp2p
from p2p.memory import MemoryNetwork
from p2p.node import LEDGER, Node
from strategies.fedavg import FedAvg
from tests.contract.wires import quick, until
from tests.e2e.test_mesh import run_mesh

STRATEGY, TRAINER = FedAvg(steps=3), SGD(lr=0.05)
pytestmark = pytest.mark.slow


@pytest.fixture
def named(tasks):
    """The tasks of the peers, under names that are keys."""
    keys = sorted(
        (Key(bytes([i]) * 32) for i in range(len(tasks))), key=lambda k: k.peer
    )
    return {k.peer: (k, task) for k, task in zip(keys, tasks.values(), strict=True)}


def run_real(named, start, rounds, line=False):
    """Run a mesh on loopback; in a ``line`` each knows its neighbours alone."""

    async def main():
        async with AsyncExitStack() as stack:
            wires = [
                await stack.enter_async_context(open_libp2p(quick(key)))
                for key, _ in named.values()
            ]
            for i, wire in enumerate(wires):
                for other in wires[max(0, i - 1) if line else 0 : i]:
                    await wire.connect(other.addresses(), timeout_s=10)
            links = 2 * (len(wires) - 1) if line else len(wires) * (len(wires) - 1)
            await until(lambda: sum(len(w.peers()) for w in wires) == links)
            nodes = [
                Node(wire, STRATEGY, TRAINER, task, STRATEGY.init(start), len(wires))
                for wire, (_, task) in zip(wires, named.values(), strict=True)
            ]
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for node in nodes:
                        nursery.start_soon(node.run, rounds)
            return [node.state for node in nodes]

    return trio.run(main)


@pytest.mark.parametrize("line", [False, True])
def test_real_sockets_give_the_bits_of_the_loop_and_of_memory(start, named, line):
    tasks = {peer: task for peer, (_, task) in named.items()}
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=4)
    virtual = run_mesh(tasks, start, 4, MemoryNetwork(delay_s=0.2, jitter_s=0.3))
    for state in [*virtual, *run_real(named, start, 4, line)]:
        assert state.version == 4
        for name, tensor in reference.params.items():
            assert torch.equal(state.params[name], tensor)


def test_a_peer_that_talks_nonsense_does_not_end_the_others(start, named):
    tasks = {peer: task for peer, (_, task) in named.items()}
    reference = run_rounds(STRATEGY, TRAINER, tasks, start, rounds=2)

    async def nonsense(peer, body):
        return b"nonsense"

    async def main():
        async with AsyncExitStack() as stack:
            wires = [
                await stack.enter_async_context(open_libp2p(quick(key)))
                for key, _ in named.values()
            ]
            liar = await stack.enter_async_context(open_libp2p(quick()))
            liar.serve(LEDGER, nonsense)
            for i, wire in enumerate(wires):
                for other in [*wires[:i], liar]:
                    await wire.connect(other.addresses(), timeout_s=10)
            nodes = [
                Node(wire, STRATEGY, TRAINER, task, STRATEGY.init(start), len(wires))
                for wire, (_, task) in zip(wires, named.values(), strict=True)
            ]
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for node in nodes:
                        nursery.start_soon(node.run, 2)
            return [node.state for node in nodes]

    for state in trio.run(main):
        assert torch.equal(state.params["weight"], reference.params["weight"])
