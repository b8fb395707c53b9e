"""Who can dial us: asked of real peers over real sockets."""

import random

import pytest
import trio
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.libp2p.dialback import AUTONAT, MAX_PORTS, back_addresses, place_of
from p2p.libp2p.hops import heard, said
from p2p.libp2p.parts import Reachable
from p2p.libp2p.reachability import Reachability, Verdict
from p2p.members.places import Reach
from tests.contract.wires import quick, until
from tests.e2e.test_libp2p_circuits import nodes, run

pytestmark = pytest.mark.slow


def part(nearest=Reach.HERE):
    return Reachable(random.Random(0), nearest=nearest)


def test_a_peer_that_can_be_dialled_is_told_so_and_by_whom():
    async def main():
        ours = part()
        configs = quick(parts=[part()]), quick(parts=[ours])
        async with nodes(*configs) as (server, ann):
            await ann.connect(server.addresses(), timeout_s=5)
            await until(lambda: ours.kind == "public")
            assert server.me in ours.words
            assert ann.addresses()[0].rpartition("/p2p/")[0] in ours.words
            assert server.peers() == [ann.me]

    run(main)


def test_a_peer_that_cannot_be_dialled_is_told_so():
    async def main():
        async with nodes(quick(parts=[part()]), quick()) as (server, ann):
            await ann.connect(server.addresses(), timeout_s=5)
            asking = Reachability(ann.host, lambda: [server.me], random.Random(0))
            asking.nearest = Reach.HERE
            closed = [Multiaddr(f"/ip4/127.0.0.1/tcp/1/p2p/{ann.me}")]
            ann.host.get_addrs = lambda: closed
            await asking.ask_some()
            assert asking.kind() == "private"
            assert asking.words() == f"{server.me} could not"
            await (
                asking.ask_some()
            )  # too early: the server will not say, which is no "no"
            assert asking.kind() == "private"
            asking.hurry()
            assert asking.kind() == "unknown"

    run(main)


def test_a_peer_nearby_is_not_asked_about_the_world():
    async def main():
        async with nodes(quick(parts=[part()]), quick()) as (server, ann):
            await ann.connect(server.addresses(), timeout_s=5)
            asking = Reachability(ann.host, lambda: [server.me], random.Random(0))
            await asking.ask_some()
            assert asking.kind() == "unknown"
            assert asking.words() == "no peer outside has tried to dial us"

    run(main)


def test_most_answers_decide_and_a_draw_is_unknown():
    async def main():
        async with nodes(quick()) as (ann,):
            asking = Reachability(ann.host, list, random.Random(0))
            now_s = trio.current_time()
            for name, reached, kind in (
                ("a", True, "public"),
                ("b", False, "unknown"),
                ("c", False, "private"),
                ("a", False, "private"),
            ):
                asking.verdicts[name] = Verdict(name, reached, "", now_s)
                assert asking.kind() == kind
            for name in "abc":
                asking.verdicts[name] = Verdict(name, False, "", now_s - 4000)
            assert asking.kind() == "unknown"

    run(main)


def test_two_who_reached_us_where_no_interface_is_make_it_an_address_of_ours():
    async def main():
        ours = part()
        async with nodes(quick(parts=[ours])) as (ann,):
            asking, now_s = ours._asking, trio.current_time()
            port = ann.addresses()[0].split("/")[4]
            far = f"/ip4/45.33.1.7/tcp/{port}"
            for name, where in (("a", far), ("b", "/ip4/45.33.1.7/tcp/1")):
                asking.verdicts[name] = Verdict(name, True, where, now_s)
            assert not any("45.33" in a for a in ann.addresses())  # one word, one port
            asking.verdicts["c"] = Verdict("c", True, far, now_s)
            assert f"{far}/p2p/{ann.me}" in ann.addresses()
            asking.met()  # none of the three is here any more
            assert not any("45.33" in a for a in ann.addresses())

    run(main)


@pytest.mark.parametrize("reply", [b"\xff" * 12, b"\x03abc", b"", b"\x02\x08\x00"])
def test_a_server_that_babbles_says_nothing(reply):
    async def main():
        async with nodes(quick(), quick()) as (server, ann):

            async def serve(stream):
                await heard(stream, Message)
                await stream.write(reply)
                await stream.close()

            server.host.set_stream_handler(AUTONAT, serve)
            await ann.connect(server.addresses(), timeout_s=5)
            asking = Reachability(ann.host, lambda: [server.me], random.Random(0))
            asking.nearest = Reach.HERE
            await asking.ask_some()
            assert asking.verdicts == {}

    run(main)


def test_nobody_is_dialled_but_the_one_who_asks():
    """A question that names a third machine, or another key, reaches neither."""

    async def main():
        touched = []

        async def count(stream):
            touched.append(1)

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.2")
            nursery.start_soon(trio.serve_listeners, count, listeners)
            port = listeners[0].socket.getsockname()[1]
            async with nodes(quick(parts=[part()]), quick()) as (server, eve):
                await eve.connect(server.addresses(), timeout_s=5)
                question = Message(type=Message.DIAL)
                question.dial.peer.id = b"not me"
                elsewhere = Multiaddr(f"/ip4/127.0.0.2/tcp/{port}")
                question.dial.peer.addrs.append(elsewhere.to_bytes())
                stream = await eve.host.new_stream(ID.from_base58(server.me), [AUTONAT])
                await said(stream, question)
                reply = await heard(stream, Message)
                assert reply.dialResponse.status == Message.E_DIAL_ERROR
            nursery.cancel_scope.cancel()
        assert touched == []

    run(main)


def test_only_the_address_that_was_seen_is_dialled_at_a_few_ports():
    def raw(text):
        return Multiaddr(text).to_bytes()

    claimed = [raw("/ip4/8.8.8.8/tcp/25"), b"junk", raw("/ip6/2a00::1/tcp/4001/ws")]
    assert back_addresses(claimed, "45.33.1.7") == [
        "/ip4/45.33.1.7/tcp/25",
        "/ip4/45.33.1.7/tcp/4001/ws",
    ]
    many = [raw(f"/ip4/8.8.8.8/tcp/{port}") for port in range(1, 200)]
    assert len(back_addresses(many, "45.33.1.7")) == MAX_PORTS
    assert back_addresses([raw("/ip4/1.2.3.4/udp/1/quic-v1")], "45.33.1.7") == []


def test_bytes_that_are_no_address_are_none():
    rng = random.Random(0)
    for size in (0, 1, 7, 40, 513, 4000):
        assert place_of(rng.randbytes(size)) is None
