"""Peers that reach each other through relays, with real sockets, relays and faults."""

import random
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import StopMessage

from fedcore.errors import PeerLostError, ProtocolError
from p2p.circuit import CIRCUIT
from p2p.identity.keys import Key
from p2p.libp2p.allowance import RelayLimits
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.hops import HOP, STOP, heard, read_circuit, read_relay, said
from p2p.libp2p.parts import Relayed, Relaying
from p2p.libp2p.thread import MeshThread
from p2p.libp2p.transport import open_libp2p
from tests.contract.wires import LOOPBACK, quick, until

pytestmark = pytest.mark.slow
RELAY_KEY, ANN_KEY, BOB_KEY = (Key(bytes([i]) * 32) for i in (11, 12, 13))


def relayed(*relays, seed=0):
    return Relayed(relays, random.Random(seed))


def run(main):
    async def bounded():
        with trio.fail_after(40):
            await main()

    trio.run(bounded)


@asynccontextmanager
async def nodes(*configs):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_libp2p(c)) for c in configs]


def circuits(node):
    return [a for a in node.addresses() if CIRCUIT in a]


async def echo(peer, body):
    return peer.encode() + b":" + body


@asynccontextmanager
async def around_a_relay(limits=None, **kwargs):
    """Yield a relay's part and node, Ann who has reserved there, and Bob."""
    relaying = Relaying(limits, **kwargs)
    ann_part, bob_part = relayed(seed=1), relayed(seed=2)
    configs = quick(RELAY_KEY, parts=[relaying]), quick(ANN_KEY, parts=[ann_part])
    async with nodes(*configs, quick(BOB_KEY, parts=[bob_part])) as (relay, ann, bob):
        ann_part.use(relay.addresses())
        ann.serve("/echo/1", echo)
        yield relaying, relay, ann, bob


def test_two_peers_talk_through_a_relay_and_know_it():
    async def main():
        async with around_a_relay() as (relaying, relay, ann, bob):
            ups = []
            await until(lambda: circuits(ann))
            assert circuits(ann) == [f"{relay.addresses()[0]}{CIRCUIT}/p2p/{ann.me}"]
            assert all(relay.me not in a.partition(CIRCUIT)[2] for a in circuits(ann))
            bob.watch(lambda event: ups.append((event.peer, bob.path(event.peer))))
            assert await bob.connect(circuits(ann), timeout_s=10) == ann.me
            answer = await bob.ask(ann.me, "/echo/1", b"x" * (1 << 19), timeout_s=10)
            assert answer == bob.me.encode() + b":" + b"x" * (1 << 19)
            for node, other in ((ann, bob), (bob, ann)):
                path = node.path(other.me)
                assert (path.kind, path.relay) == ("relayed", relay.me)
            assert {p.kind for peer, p in ups if peer == ann.me} == {"relayed"}
            assert {p.kind for peer, p in ups if peer == relay.me} == {"direct"}
            assert relaying.counts.circuits == 1
            assert relaying.counts.carried_bytes > 1 << 20

    run(main)


def test_a_direct_address_wins_over_a_circuit_later():
    async def main():
        async with around_a_relay() as (_, _, ann, bob):
            await until(lambda: circuits(ann))
            await bob.connect(circuits(ann), timeout_s=10)
            near = [a for a in ann.addresses() if CIRCUIT not in a]
            await bob.connect(near, timeout_s=10, again=True)
            assert bob.path(ann.me).kind == "direct"
            assert await bob.ask(ann.me, "/echo/1", b"", timeout_s=5)

    run(main)


RELAY_PROGRAM = """
import sys
from p2p.identity.keys import Key
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.parts import Relaying
from p2p.libp2p.thread import MeshThread

config = Libp2pConfig(Key(bytes([11]) * 32), [sys.argv[1]], [Relaying()])
with MeshThread(config) as relay:
    print(relay.addresses()[0], flush=True)
    sys.stdin.read()
"""


@contextmanager
def relay_process(listen):
    """Run a relay as a program of its own; yield it and its address."""
    command = [sys.executable, "-c", RELAY_PROGRAM, listen]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as child:
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def test_a_relay_that_is_killed_is_waited_for_and_found_again():
    async def main():
        part = relayed(seed=3)
        async with nodes(quick(ANN_KEY, parts=[part])) as (ann,):
            with relay_process(LOOPBACK) as (child, address):
                part.use([address])
                await until(lambda: circuits(ann))
                child.kill()
                await until(lambda: not circuits(ann))
                await until(lambda: "nobody could be" in part.states()[0].words)
                assert not part.states()[0].held
            with relay_process(address.rpartition("/p2p/")[0]) as (_, again):
                assert again == address
                part.hurry()
                await until(lambda: circuits(ann))
                assert part.states()[0].words == "reserved"

    run(main)


def test_reservations_at_two_relays_and_at_fewer_when_told_so():
    async def main():
        part = relayed(seed=4)
        keys = [Key(bytes([i]) * 32) for i in (21, 22)]
        configs = [quick(key, parts=[Relaying()]) for key in keys]
        async with nodes(*configs, quick(ANN_KEY, parts=[part])) as (one, two, ann):
            part.use([*one.addresses(), *two.addresses(), "/ip4/1.2.3.4/tcp/1"])
            await until(lambda: len(circuits(ann)) == 2)
            part.use(two.addresses())
            await until(lambda: len(circuits(ann)) == 1)
            assert read_circuit(circuits(ann)[0]).relay_peer == two.me

    run(main)


def test_a_dead_relay_is_a_reason_in_words_and_no_more():
    async def main():
        nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY_KEY.peer}"
        part = relayed(nobody)
        async with nodes(quick(ANN_KEY, parts=[part])) as (ann,):
            await until(lambda: "tcp/1" in part.states()[0].words)
            assert circuits(ann) == []
            far = f"{nobody}{CIRCUIT}/p2p/{BOB_KEY.peer}"
            with pytest.raises(PeerLostError, match="tcp/1"):
                await ann.connect([far], timeout_s=5)

    run(main)


def test_a_relay_of_one_network_serves_nobody_else():
    async def main():
        members = {ANN_KEY.peer}
        async with around_a_relay(allow=lambda p: p in members) as (part, _, ann, bob):
            await until(lambda: circuits(ann))
            with pytest.raises(PeerLostError, match="permission denied"):
                await bob.connect(circuits(ann), timeout_s=5)
            members.add(bob.me)
            await bob.connect(circuits(ann), timeout_s=5)
            members.remove(ann.me)
            await bob.disconnect(ann.me)
            await until(lambda: ann.me not in bob.peers())
            with pytest.raises(PeerLostError, match="no reservation"):
                await bob.connect(circuits(ann), timeout_s=5)
            assert part.counts.refused["is not allowed here"] >= 1

    run(main)


def test_nobody_is_called_who_has_not_reserved():
    async def main():
        async with around_a_relay() as (_, relay, _, bob):
            far = f"{relay.addresses()[0]}{CIRCUIT}/p2p/{Key(bytes(32)).peer}"
            with pytest.raises(PeerLostError, match="no reservation"):
                await bob.connect([far], timeout_s=5)

    run(main)


def test_bytes_are_counted_both_ways_and_end_the_circuit():
    async def main():
        limits = RelayLimits(circuit_bytes=200_000)
        async with around_a_relay(limits) as (part, _, ann, bob):
            await until(lambda: circuits(ann))
            await bob.connect(circuits(ann), timeout_s=10)
            assert await bob.ask(ann.me, "/echo/1", b"x" * 50_000, timeout_s=5)
            with pytest.raises(PeerLostError):
                await bob.ask(ann.me, "/echo/1", b"x" * 150_000, timeout_s=5)
            await until(lambda: ann.me not in bob.peers())
            await until(lambda: part.counts.ended["its bytes were used up"] == 1)
            assert part.counts.carried_bytes <= 200_000
            await bob.connect(circuits(ann), timeout_s=10)

    run(main)


def test_an_idle_circuit_ends_when_its_time_is_over():
    async def main():
        limits = RelayLimits(circuit_s=1)
        async with around_a_relay(limits) as (part, _, ann, bob):
            await until(lambda: circuits(ann))
            await bob.connect(circuits(ann), timeout_s=10)
            await until(lambda: part.counts.ended["its time was over"] == 1)
            await until(lambda: ann.me not in bob.peers())

    run(main)


def test_no_more_circuits_and_places_than_the_limits():
    async def main():
        limits = RelayLimits(reservations=1, circuits_per_peer=1)
        async with around_a_relay(limits) as (part, relay, ann, bob):
            await until(lambda: circuits(ann))
            late = relayed(*relay.addresses(), seed=5)
            async with nodes(quick(parts=[late])) as (eve,):
                await until(lambda: "refused" in late.states()[0].words)
                await bob.connect(circuits(ann), timeout_s=10)
                with pytest.raises(PeerLostError, match="resource limit"):
                    await eve.connect(circuits(ann), timeout_s=10)
            assert part.counts.refused["no place is left"] >= 1
            assert part.counts.refused["too many circuits"] == 1

    run(main)


def test_one_circuit_that_ends_leaves_the_others_alone():
    async def main():
        async with around_a_relay() as (_, _, ann, bob):
            await until(lambda: circuits(ann))
            async with nodes(quick(parts=[relayed(seed=6)])) as (eve,):
                await bob.connect(circuits(ann), timeout_s=10)
                await eve.connect(circuits(ann), timeout_s=10)
                await eve.disconnect(ann.me)
                await until(lambda: eve.me not in ann.peers())
                assert await bob.ask(ann.me, "/echo/1", b"on", timeout_s=5)

    run(main)


def test_garbage_and_silence_on_the_relays_protocols_harm_nobody():
    async def main():
        async with around_a_relay() as (part, relay, ann, bob):
            await until(lambda: circuits(ann))
            await bob.connect(relay.addresses(), timeout_s=5)
            to_relay = ID.from_base58(relay.me)
            rng = random.Random(7)
            for size in (0, 1, 5, 100, 4000):
                stream = await bob.host.new_stream(to_relay, [HOP])
                await stream.write(rng.randbytes(size) or b"\xff" * 12)
                await stream.close()
            silent = []
            with suppress(BaseLibp2pError):
                while len(silent) < 20:
                    silent.append(await bob.host.new_stream(to_relay, [HOP]))
            assert len(silent) < 20
            await until(lambda: part.counts.refused["too many requests at once"] > 0)
            for stream in silent:
                await stream.reset()
            await trio.sleep(0.2)
            await bob.connect(circuits(ann), timeout_s=10)
            assert await bob.ask(ann.me, "/echo/1", b"", timeout_s=5)

    run(main)


def test_a_circuit_from_a_relay_that_is_not_ours_is_not_taken():
    async def main():
        async with around_a_relay() as (_, _, ann, bob):
            near = [a for a in ann.addresses() if CIRCUIT not in a]
            await bob.connect(near, timeout_s=5)
            stream = await bob.host.new_stream(ID.from_base58(ann.me), [STOP])
            call = StopMessage(type=StopMessage.CONNECT)
            call.peer.id = ID.from_base58(RELAY_KEY.peer).to_bytes()
            assert await is_hung_up_on(stream, call)

    run(main)


async def is_hung_up_on(stream, message):
    try:
        await said(stream, message)
        await heard(stream, StopMessage)
    except Exception as error:  # noqa: BLE001 - whichever the library raises
        return not isinstance(error, trio.TooSlowError)
    return False


def test_threads_reach_each_other_through_a_relay():
    ann_part, bob_part = relayed(), relayed()
    config = Libp2pConfig(RELAY_KEY, [LOOPBACK], [Relaying()])
    ann_config = Libp2pConfig(ANN_KEY, [LOOPBACK], [ann_part])
    bob_config = Libp2pConfig(BOB_KEY, [LOOPBACK], [bob_part])
    with MeshThread(config) as relay, MeshThread(ann_config) as ann:
        ann_part.use(relay.addresses())
        with MeshThread(bob_config) as bob:
            trio.run(until, lambda: circuits(ann))
            assert bob.connect(circuits(ann), 10).result(10) == ann.me
            assert bob.path(ann.me).kind == "relayed"


BAD = f"""
/p2p-circuit/p2p/x
/ip4/1.2.3.4/tcp/1{CIRCUIT}
{"x" * 9999}
/p2p/
/ip4/999.2.3.4/tcp/1/p2p/{RELAY_KEY.peer}{CIRCUIT}/p2p/{ANN_KEY.peer}
/ip4/1.2.3.4/tcp/1/p2p/{RELAY_KEY.peer}{CIRCUIT}/p2p/nobody
"""


@pytest.mark.parametrize("text", BAD.splitlines())
def test_wrong_circuit_addresses_are_refused(text):
    with pytest.raises(ProtocolError):
        read_circuit(text)
    with pytest.raises(ProtocolError):
        read_relay(text.partition(CIRCUIT)[0].replace(RELAY_KEY.peer, "nobody"))
