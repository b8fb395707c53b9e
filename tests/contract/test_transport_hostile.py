"""What strangers and members may do to a node: it stays small, honest, and up.

The node runs in a process of its own, whose memory is measured.
"""

import json
import random
import struct
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, suppress

import psutil
import pytest
import trio
from libp2p.exceptions import BaseLibp2pError

from fedcore.errors import FedError, PeerLostError, ProtocolError
from p2p.libp2p.asking import protocol_of
from p2p.libp2p.framing import Kind, frame
from p2p.libp2p.streams import open_frames
from p2p.libp2p.transport import open_libp2p
from tests.contract.wires import quick, until

pytestmark = pytest.mark.slow
MOST_GROWTH_BYTES = 16 << 20


class Victim:
    """The node that is attacked."""

    def __init__(self, process):
        self.process = process
        self.address = process.stdout.readline().strip()
        _, _, self.ip, _, port, _, self.peer = self.address.split("/")
        self.port = int(port)
        self.reports = []
        threading.Thread(target=self.listen, daemon=True).start()
        self.start_bytes = self.size_bytes()

    def listen(self):
        for line in self.process.stdout:
            self.reports.append(line.strip())

    def size_bytes(self):
        return psutil.Process(self.process.pid).memory_info().rss

    def downs(self, peer):
        return [r for r in self.reports if r.startswith(f"down {peer}")]


@contextmanager
def victim(**quotas):
    command = [sys.executable, "-m", "tests.contract.echo_node", json.dumps(quotas)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Victim(process)
        finally:
            process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0


@pytest.fixture(scope="module")
def shared():
    with victim(held_bytes_per_peer=2 << 20) as target:
        yield target
        assert target.size_bytes() - target.start_bytes < MOST_GROWTH_BYTES


def run(main, *args):
    async def bounded():
        with trio.fail_after(60):
            await main(*args)

    trio.run(bounded)


@asynccontextmanager
async def guest(target):
    """Yield a node that is connected to the victim ``target``."""
    async with open_libp2p(quick()) as node:
        await node.connect([target.address], timeout_s=10)
        yield node


async def check_served(target, count=20):
    """A newcomer connects to ``target`` and is answered, in spite of all."""
    async with guest(target) as honest:
        for i in range(count):
            body = bytes([i]) * 1000
            assert await honest.ask(target.peer, "/echo/1", body, timeout_s=5) == body


async def raw_stream(node, target):
    """Return a stream of ``node`` to ``target`` on which nothing was agreed yet."""
    return await node.links.connection_to(target.peer).new_stream()


async def frames_to(node, target):
    connection = node.links.connection_to(target.peer)
    return await open_frames(connection, protocol_of("/echo/1"))


def test_strangers_that_send_garbage_or_nothing_keep_nobody_out(shared):
    rng = random.Random(1)
    hello = b"\x13/multistream/1.0.0\n"

    async def main(target):
        async with trio.open_nursery() as nursery:
            held = []
            for i in range(600):
                stream = await trio.open_tcp_stream(target.ip, target.port)
                held.append(stream)
                kind = i % 4  # silence, garbage, half a handshake, a long line
                if kind == 1:
                    nursery.start_soon(push, stream, rng.randbytes(1 << 14))
                elif kind == 2:
                    nursery.start_soon(push, stream, hello + b"\x07/noise\n\x00")
                elif kind == 3:
                    nursery.start_soon(push, stream, b"\xff\xff\xff\xff\x7f" + hello)
                if i % 200 == 199:
                    await check_served(target)
            for stream in held:
                await stream.aclose()
        await check_served(target)

    async def push(stream, data):
        try:
            await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    run(main, shared)
    assert shared.size_bytes() - shared.start_bytes < MOST_GROWTH_BYTES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">BI", Kind.ASK, 0xFFFFFFFF), "a body of 4294967295 bytes"),
        (struct.pack(">BQ", Kind.ASK, 1 << 63), "a body of 2147483648 bytes"),
        (struct.pack(">BI", Kind.ASK, (1 << 20) + 1), "at most 1048576"),
        (b"\x00\x00\x00\x00\x01a", "unknown kind 0"),
        (b"GET / HTTP/1.1\r\n\r\n", "unknown kind 71"),
        (frame(Kind.ANSWER, b"42"), "an answer to no question"),
        (frame(Kind.ASK, b"abc")[:3], "cut short in its head"),
        (frame(Kind.ASK, b"abc")[:-1], ""),
    ],
)
def test_a_member_that_breaks_the_frames_is_dropped_by_name(data, reason, shared):
    async def main():
        async with guest(shared) as bad:
            frames = await frames_to(bad, shared)
            await frames.send(data)
            await frames.stream.close_write()
            if not reason:  # hung up in the middle of a message: no fault of anybody
                await check_served(shared)
                return
            await until(lambda: not bad.peers())
            await until(lambda: shared.downs(bad.me))
            assert reason in shared.downs(bad.me)[0]
            with suppress(PeerLostError):  # it is turned away, soon or at once
                await bad.connect([shared.address], timeout_s=5)
            with pytest.raises(PeerLostError):
                await bad.ask(shared.peer, "/echo/1", b"", timeout_s=2)
            await check_served(shared)

    run(main)


def test_what_would_end_the_library_ends_only_a_stream(shared):
    """It lets the error of one stream, such as text that is not UTF-8, end the host."""
    rng = random.Random(2)

    async def main():
        async with guest(shared) as bad:
            for data in (b"\x02\xff\xff\n", b"\x01\n", rng.randbytes(500)):
                stream = await raw_stream(bad, shared)
                await stream.write(b"\x13/multistream/1.0.0\n" + data)
                stream = await raw_stream(bad, shared)
                await stream.write(data)
            assert await bad.ask(shared.peer, "/echo/1", b"still", timeout_s=5)
        await check_served(shared)

    run(main)


def test_random_frames_of_the_muxer_end_at_most_their_connection(shared):
    rng = random.Random(3)

    async def main():
        for _ in range(10):
            async with guest(shared) as bad:
                muxer = bad.links.connection_to(shared.peer).muxed_conn
                for _ in range(20):
                    head = struct.pack(
                        "!BBHII",
                        0,
                        rng.randrange(5),
                        rng.randrange(16),
                        rng.randrange(1, 8),
                        rng.choice([0, 1, 50, 1 << 31, rng.randrange(1 << 16)]),
                    )
                    try:
                        await muxer._write_frame(head + rng.randbytes(50))
                    except BaseLibp2pError:
                        break
        await check_served(shared)

    run(main)


def test_a_member_that_ignores_the_windows_is_cut_off(shared):
    async def main():
        async with guest(shared) as bad:
            muxer = bad.links.connection_to(shared.peer).muxed_conn
            stream = await muxer.open_stream()  # nobody reads it: nothing was agreed
            head = struct.pack("!BBHII", 0, 0, 0, stream.stream_id, 1 << 16)
            with trio.move_on_after(20):
                while bad.peers():
                    try:
                        await muxer._write_frame(head + bytes(1 << 16))
                    except BaseLibp2pError:
                        break
            await until(lambda: shared.downs(bad.me))
        await check_served(shared)

    run(main)
    assert shared.size_bytes() - shared.start_bytes < MOST_GROWTH_BYTES


def test_requests_that_never_end_hold_up_nobody(shared):
    """Streams that begin a message, or only open, and then say nothing."""

    async def main():
        async with guest(shared) as slow, guest(shared) as opener:
            for _ in range(50):
                frames = await frames_to(slow, shared)
                await frames.send(struct.pack(">BI", Kind.ASK, 1 << 20) + b"a")
            for _ in range(100):
                await raw_stream(opener, shared)
            await check_served(shared)

    run(main)
    assert shared.size_bytes() - shared.start_bytes < MOST_GROWTH_BYTES


def test_a_member_with_too_many_streams_gets_no_more(shared):
    async def main():
        async with guest(shared) as greedy:
            refused = 0
            for _ in range(80):
                try:
                    frames = await frames_to(greedy, shared)
                    await frames.send(frame(Kind.ASK, b"x"))
                    refused += await frames.head() is None
                except BaseLibp2pError:
                    refused += 1
            assert refused in (80 - 64, 80 - 63)  # a heartbeat may have one
        await check_served(shared)

    run(main)


def test_a_flood_is_slowed_and_then_its_sender_dropped_by_name():
    answered = []

    async def flood(bad, target):
        while True:
            try:
                await bad.ask(target.peer, "/echo/1", b"x" * 100, timeout_s=5)
            except FedError:
                return
            answered.append(1)

    async def main(target):
        async with guest(target) as bad:
            began_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(flood, bad, target)
                await trio.sleep(1)
                await check_served(target)
            lasted_s = trio.current_time() - began_s
            assert len(answered) <= 50 + 60 * lasted_s
            await until(lambda: target.downs(bad.me))
            assert "more than 50 requests a second" in target.downs(bad.me)[0]
            await until(lambda: not bad.peers())
        await check_served(target)

    with victim(requests_per_s=50.0, burst=50, patience_s=1.0) as target:
        run(main, target)


def test_more_than_may_wait_is_refused_for_now(shared):
    """Two long requests fit at a time: the others are told to come later."""
    outcomes = []

    async def one(bad, target):
        try:
            await bad.ask(target.peer, "/echo/1", bytes(1 << 20), timeout_s=10)
            outcomes.append("answered")
        except PeerLostError as error:
            outcomes.append("later" if "ask again later" in str(error) else str(error))

    async def main(target):
        async with guest(target) as node:
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(one, node, target)
            await check_served(target)

    run(main, shared)
    assert set(outcomes) == {"answered", "later"}
    assert len(outcomes) == 16


def test_a_second_node_with_our_key_is_named_and_nothing_breaks():
    async def main():
        first = quick()
        async with (
            open_libp2p(first) as a,
            open_libp2p(quick(first.key)) as twin,
            open_libp2p(quick()) as c,
        ):
            with pytest.raises(PeerLostError, match="another node runs with my key"):
                await twin.connect(a.addresses(), timeout_s=5)
            await c.connect(a.addresses(), timeout_s=5)
            await c.connect(twin.addresses(), timeout_s=5, again=True)
            assert list(c.peers()) == [a.me]
            with pytest.raises(ProtocolError):
                await c.ask(a.me, "/nope/1", b"", timeout_s=5)
            assert list(a.peers()) == list(twin.peers()) == [c.me]

    run(main)
