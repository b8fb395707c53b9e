"""Networks of each kind of transport, for tests that are the same for all of them."""

import math
from contextlib import AsyncExitStack, asynccontextmanager

import trio
import trio.testing

from p2p.identity.keys import Key
from p2p.libp2p.config import Libp2pConfig, Quotas
from p2p.libp2p.transport import open_libp2p
from p2p.memory import MemoryNetwork

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Memory:
    """Peers on an in-memory network; time is virtual."""

    def __init__(self):
        self.network = MemoryNetwork(delay_s=0.1, jitter_s=0.1)

    def run(self, main):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    @asynccontextmanager
    async def open(self, count):
        yield [self.network.join(f"peer{i}") for i in range(count)]

    def cut(self, a, b):
        self.network.cut.add(frozenset((a.me, b.me)))

    async def leave(self, node):
        self.network.leave(node.me)


class Libp2p:
    """Peers on real sockets of the loopback device, every link through a valve."""

    def __init__(self):
        self.valves = {}
        self.stops = {}

    def run(self, main):
        async def bounded():
            with trio.fail_after(60):
                return await main()

        return trio.run(bounded)

    @asynccontextmanager
    async def open(self, count):
        async with trio.open_nursery() as nursery:
            nodes = [await nursery.start(self.live, quick()) for _ in range(count)]
            for i, a in enumerate(nodes):
                for b in nodes[:i]:
                    valve = await nursery.start(Valve.serve, b.addresses()[0])
                    self.valves[frozenset((a.me, b.me))] = valve
                    await a.connect([valve.address], timeout_s=10)
            for node in nodes:
                await until(lambda node=node: len(node.peers()) == count - 1)
            yield nodes
            nursery.cancel_scope.cancel()

    async def live(self, config, task_status=trio.TASK_STATUS_IGNORED):
        with trio.CancelScope() as scope:
            async with open_libp2p(config) as node:
                self.stops[node.me] = scope
                task_status.started(node)
                await trio.sleep_forever()

    def cut(self, a, b):
        self.valves[frozenset((a.me, b.me))].shut = True

    async def leave(self, node):
        self.stops[node.me].cancel()


KINDS = {"memory": Memory, "libp2p": Libp2p}


def quick(key=None, listen=(LOOPBACK,), beat_s=10.0, parts=(), **quotas):
    """Return a configuration for tests: on loopback; busy machines are not dead."""
    return Libp2pConfig(
        key or Key.fresh(), listen, beat_s=beat_s, parts=parts, quotas=Quotas(**quotas)
    )


@asynccontextmanager
async def two_nodes(**quotas):
    """Yield two connected nodes; ``quotas`` are those of the second."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(open_libp2p(quick()))
        b = await stack.enter_async_context(open_libp2p(quick(**quotas)))
        await a.connect(b.addresses(), timeout_s=10)
        await until(b.peers)
        yield a, b


class Valve:
    """A cable to a node: when it is shut nothing passes, and nobody is told."""

    def __init__(self, target):
        _, _, self.ip, _, self.port, _, self.peer = target.split("/")
        self.shut = False
        self.address = ""

    @classmethod
    async def serve(cls, target, task_status=trio.TASK_STATUS_IGNORED):
        valve = cls(target)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        valve.address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{valve.peer}"
        task_status.started(valve)
        await trio.serve_listeners(valve.join, listeners)

    async def join(self, near):
        far = await trio.open_tcp_stream(self.ip, int(self.port))
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self.pump, near, far, nursery)
            nursery.start_soon(self.pump, far, near, nursery)

    async def pump(self, source, goal, nursery):
        try:
            while data := await source.receive_some(1 << 16):
                await until(lambda: not self.shut, math.inf)
                await goal.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


async def until(condition, timeout_s=20.0):
    """Wait until ``condition()`` holds."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - of things that have no event
            await trio.sleep(0.01)
