"""What the library does that a mesh must not: each trap, and that we are not in it.

The tests without the mark "slow" are of the library alone. When one of them fails after
an upgrade, the trap is gone, and the wrapper it names may go too.
"""

import inspect
import logging
import struct
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.utils import DEFAULT_RETRY_READ_COUNT
from libp2p.network.connection import swarm_connection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from multiaddr import Multiaddr

from fedcore.errors import ConfigError, PeerLostError
from p2p.identity.keys import Key
from p2p.libp2p.asking import protocol_of
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.framing import Kind, frame
from p2p.libp2p.host import listen_addresses, peer_id
from p2p.libp2p.muxer import Muxer
from p2p.libp2p.streams import open_frames
from p2p.libp2p.transport import open_libp2p
from p2p.machine import Down
from tests.contract.wires import LOOPBACK, Valve, quick, two_nodes, until

slow = pytest.mark.slow
DEAD = "/ip4/127.0.0.1/tcp/9/p2p/"
SOMEBODY = ID.from_pubkey(create_new_key_pair(bytes(32)).public_key)


def run(main):
    async def bounded():
        with trio.fail_after(40):
            await main()

    trio.run(bounded)


async def echo(peer, body):
    return body


# --- The library alone.


def test_it_offers_plaintext_unless_told_otherwise():
    upgrader = new_host().get_network().upgrader
    assert PLAINTEXT_PROTOCOL_ID in upgrader.security_multistream.transports


def test_it_resets_a_writer_after_five_seconds_of_a_full_window():
    assert "after 5 seconds" in inspect.getsource(YamuxStream.write)


def test_it_gives_up_a_long_read_after_a_hundred_pieces():
    assert DEFAULT_RETRY_READ_COUNT == 100


def test_it_counts_invalid_messages_in_favour_of_their_sender_if_weighed_as_specified():
    said = TopicScoreParams(weight=-1.0, cap=10.0, decay=1.0)
    scorer = PeerScorer(ScoreParams(p4_invalid_messages=said))
    scorer.on_invalid_message(SOMEBODY, "/t/1")
    # One reason why signs of life go by a protocol of our own (p2p.members.pulse).
    assert scorer.score(SOMEBODY, ["/t/1"]) > 0


def test_it_queues_ten_streams_and_then_reads_nothing():
    muxer = Muxer(object(), SOMEBODY, is_initiator=True)
    assert muxer.new_stream_send_channel.statistics().max_buffer_size == 10


def test_text_that_is_not_text_escapes_from_its_negotiation():
    class Line:
        def __init__(self):
            self.left = b"\x02\xff\n"

        async def read(self, n):
            piece, self.left = self.left[:n], self.left[n:]
            return piece

    with pytest.raises(UnicodeDecodeError):
        trio.run(MultiselectCommunicator(Line()).read)


def test_it_dials_of_its_own_accord_up_to_half_its_limit():
    assert "(low_watermark + high_watermark) / 2" in inspect.getsource(
        inspect.getmodule(type(new_host().get_network().auto_connector))
    )


def test_it_keeps_an_inbound_slot_until_the_program_ends():
    source = inspect.getsource(Swarm._do_handle_inbound_connection)
    assert source.count("self.manager.wait_finished()") == 2


def test_what_we_override_is_still_there():
    assert [*inspect.signature(Muxer._write_frame).parameters] == ["self", "data"]
    parent = Muxer.__mro__[1]
    for name in ("_write_frame", "_read_data_body", "close"):
        own, its = getattr(Muxer, name), getattr(parent, name)
        assert own is not its
        assert [*inspect.signature(own).parameters] == [
            *inspect.signature(its).parameters
        ]


def test_it_logs_past_the_settings_of_the_program():
    """Ours is put in the place of the module whose functions it uses."""
    assert "logging.debug(f" in inspect.getsource(swarm_connection)
    assert isinstance(swarm_connection.logging, logging.Logger)


# --- Our transport.


@slow
def test_only_noise_is_spoken_and_tls_if_wanted():
    async def main():
        async with open_libp2p(quick()) as node:
            upgrader = node.host.get_network().upgrader
            assert {*upgrader.security_multistream.transports} == {"/noise"}
            pair = create_new_key_pair(bytes(32))
            insecure = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)}
            tls = {TLS: TLSTransport(pair)}
            for unwanted in (insecure, tls):
                with pytest.RaisesGroup(BaseLibp2pError, flatten_subgroups=True):
                    await visit(node, pair, unwanted)
            assert list(node.peers()) == []
        async with open_libp2p(replace(quick(), tls=True)) as node:
            await visit(node, pair, tls)
            await until(lambda: not node.peers())

    async def visit(node, pair, security):
        host = new_host(key_pair=pair, sec_opt=security)
        async with host.run([Multiaddr(LOOPBACK)]):
            await host.connect(info_from_p2p_addr(Multiaddr(node.addresses()[0])))
            await until(lambda: list(node.peers()) == [str(host.get_id())])
            await host.disconnect(peer_id(node.me))  # else its socket stays open

    run(main)


@slow
def test_requests_are_read_while_handlers_are_busy():
    async def main():
        arrived, all_there = [], trio.Event()

        async def wait(peer, body):
            arrived.append(len(body))
            if len(arrived) == 8:
                all_there.set()
            await all_there.wait()  # more than a window of each stream, and unread
            return body

        async with two_nodes(held_bytes_per_peer=9 << 20) as (a, b):
            b.serve("/wait/1", wait)
            async with trio.open_nursery() as nursery:
                ask = partial(a.ask, b.me, "/wait/1", bytes(1 << 20), timeout_s=20)
                for _ in range(8):
                    nursery.start_soon(ask)
            assert arrived == [1 << 20] * 8

    run(main)


@slow
def test_a_message_may_come_in_a_thousand_pieces():
    async def main():
        async with two_nodes() as (a, b):
            b.serve("/echo/1", echo)
            connection = a.links.connection_to(b.me)
            frames = await open_frames(connection, protocol_of("/echo/1"))
            raw = frame(Kind.ASK, bytes(range(250)) * 40)
            for at in range(0, len(raw), 10):
                await frames.send(raw[at : at + 10])
            assert await frames.head() == (Kind.ANSWER, 10_000)
            assert await frames.body(10_000) == raw[5:]

    run(main)


@slow
def test_every_address_is_tried_and_failures_are_not_held_against_a_peer():
    async def main():
        async with open_libp2p(quick()) as a, open_libp2p(quick()) as b:
            dead = f"{DEAD}{b.me}"
            for _ in range(2):
                with pytest.raises(PeerLostError, match=f"{dead}: .*refused"):
                    await a.connect([dead], timeout_s=5)
            assert await a.connect([dead, *b.addresses()], timeout_s=5) == b.me

    run(main)


@slow
def test_a_success_waits_for_nobody():
    async def main():
        async with trio.open_nursery() as nursery, open_libp2p(quick()) as b:
            config = Libp2pConfig(Key.fresh(), (LOOPBACK,), stagger_s=1000.0)
            valve = await nursery.start(Valve.serve, b.addresses()[0])
            valve.shut = True  # connects, and says nothing
            async with open_libp2p(config) as a:
                assert await a.connect([*b.addresses(), valve.address], timeout_s=20)
            async with open_libp2p(quick()) as a:
                assert await a.connect([valve.address, *b.addresses()], timeout_s=20)
            nursery.cancel_scope.cancel()

    run(main)


@slow
def test_what_cannot_be_dialled_is_named_with_the_reason():
    async def main():
        async with open_libp2p(quick()) as node:
            other = Key.fresh().peer
            tried = [
                "nonsense",
                "/ip4/127.0.0.1/tcp/9",
                f"/ip4/127.0.0.1/udp/9/quic-v1/p2p/{other}",
                f"{DEAD}{node.me}",
            ]
            with pytest.raises(PeerLostError) as caught:
                await node.connect(tried, timeout_s=5)
            for words in ("'nonsense'", "ends in /p2p/", "quic-v1", "my own id"):
                assert words in str(caught.value)

    run(main)


@slow
def test_a_dead_link_is_noticed():
    async def main():
        events = []
        async with trio.open_nursery() as nursery, open_libp2p(quick()) as b:
            valve = await nursery.start(Valve.serve, b.addresses()[0])
            async with open_libp2p(quick(beat_s=0.7)) as a:
                await a.connect([valve.address], timeout_s=5)
                a.watch(events.append)
                await trio.sleep(3)
                assert len(events) == 1  # idle is not dead
                valve.shut = True
                await until(lambda: events[1:])
                assert isinstance(events[1], Down)
                assert events[1].why.startswith("silent for")
                valve.shut = False
                assert await a.connect([valve.address], timeout_s=5) == b.me
            nursery.cancel_scope.cancel()

    run(main)


@slow
def test_wildcards_are_announced_to_nobody():
    async def main():
        listen = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
        async with open_libp2p(quick(listen=listen)) as a, open_libp2p(quick()) as b:
            addresses = a.addresses()
            assert any("/ip4/127.0.0.1/" in text for text in addresses)
            assert any("/ip6/::1/" in text for text in addresses)
            for text in addresses:
                assert "/0.0.0.0/" not in text
                assert "/::/" not in text
                assert text.endswith(f"/p2p/{a.me}")
            await b.connect(addresses, timeout_s=5)
            store = b.host.get_peerstore()
            await until(lambda: peer_id(a.me) in store.peers_with_addrs())
            assert store.addrs(peer_id(a.me))
            assert not any("0.0.0.0" in str(x) for x in store.addrs(peer_id(a.me)))

    run(main)


@slow
@pytest.mark.parametrize("listen", ["/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"])
def test_other_wires_carry_the_same(listen):
    async def main():
        async with open_libp2p(quick(listen=(listen,))) as a:
            a.serve("/echo/1", echo)
            async with open_libp2p(quick()) as b:
                await b.connect(a.addresses(), timeout_s=5)
                body = bytes(1 << 20)
                assert await b.ask(a.me, "/echo/1", body, timeout_s=10) == body
                path = b.path(a.me)
                assert f"{path.address}/p2p/{a.me}" == a.addresses()[0]
                assert (path.kind, path.relay) == ("direct", None)

    run(main)


@slow
def test_others_tell_us_where_they_see_us_and_two_must_agree():
    async def main():
        async with AsyncExitStack() as stack:
            me, *others = [
                await stack.enter_async_context(open_libp2p(quick())) for _ in range(4)
            ]
            for other in others:
                await other.connect(me.addresses(), timeout_s=5)
            await until(lambda: len(me.heartbeat.seen.by) == 3)
            assert me.observed() == []  # strangers can say anything
            me.trust([other.me for other in others])
            assert [f"{a}/p2p/{me.me}" for a in me.observed()] == me.addresses()
            for other in others:  # each has seen us once, from another port
                await until(lambda other=other: other.heartbeat.seen.by)
                assert other.observed() == []

    run(main)


@slow
def test_nobody_is_turned_away_for_no_reason_and_slots_come_back():
    async def main():
        async with open_libp2p(quick(connections=4)) as hub:
            hub.serve("/echo/1", echo)
            for _ in range(3):
                async with AsyncExitStack() as stack:
                    for _ in range(4):
                        node = await stack.enter_async_context(open_libp2p(quick()))
                        await node.connect(hub.addresses(), timeout_s=5)
                        assert await node.ask(hub.me, "/echo/1", b"x", timeout_s=5)
                    await until(lambda: len(hub.peers()) == 4)
                await until(lambda: not hub.peers())

    run(main)


@slow
def test_given_up_requests_leave_the_connection_whole():
    async def main():
        events = []
        async with two_nodes(held_bytes_per_peer=1 << 30) as (a, b):
            b.serve("/echo/1", echo)
            a.watch(events.append)
            for i in range(40):
                with pytest.raises(PeerLostError):
                    await a.ask(b.me, "/echo/1", bytes(1 << 20), timeout_s=i / 5000)
            body = bytes(range(256)) * 4096
            assert await a.ask(b.me, "/echo/1", body, timeout_s=20) == body
            assert len(events) == 1

    run(main)


@slow
def test_a_connection_whose_other_end_reads_nothing_can_be_closed():
    async def main():
        async with trio.open_nursery() as nursery, open_libp2p(quick()) as b:
            valve = await nursery.start(Valve.serve, b.addresses()[0])
            async with open_libp2p(quick(beat_s=100.0)) as a:
                await a.connect([valve.address], timeout_s=5)
                valve.shut = True
                connection = a.links.connection_to(b.me)
                stuck = connection.muxed_conn._write_frame
                head = struct.pack("!BBHII", 0, 0, 0, 99, 1 << 16)
                async with trio.open_nursery() as writers:
                    for _ in range(400):
                        writers.start_soon(stubborn, stuck, head + bytes(1 << 16))
                    await trio.sleep(0.5)
                    await a.disconnect(b.me)
                    await until(lambda: not a.peers())
            nursery.cancel_scope.cancel()

    async def stubborn(write, data):
        with suppress(BaseLibp2pError):
            while True:
                await write(data)

    run(main)


@slow
def test_nobody_else_may_have_our_port():
    async def main():
        async with open_libp2p(quick()) as node:
            taken = node.addresses()[0].rpartition("/p2p/")[0]
            with pytest.raises(ConfigError, match=f"{taken}.*choose another"):
                async with open_libp2p(quick(listen=(taken,))):
                    pass

    run(main)


@slow
def test_a_node_that_has_ended_leaves_nothing_behind():
    async def main():
        before = trio.lowlevel.current_statistics().tasks_living
        listen = (LOOPBACK, "/ip4/127.0.0.1/tcp/0/ws")
        for _ in range(3):
            async with open_libp2p(quick(listen=listen)) as a:
                async with open_libp2p(quick()) as b:
                    for address in a.addresses():
                        await b.connect([address], timeout_s=5, again=True)
                listen = [text.rpartition("/p2p/")[0] for text in a.addresses()]
        await until(lambda: trio.lowlevel.current_statistics().tasks_living == before)

    run(main)


@pytest.mark.parametrize(
    "address", ["nonsense", "/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/1.2.3.4.5/tcp/1", ""]
)
def test_a_wrong_address_to_listen_on_is_the_users_mistake(address):
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen_addresses(Libp2pConfig(Key.fresh(), (address,)))


@slow
def test_only_connections_of_addresses_that_are_gone_end_when_the_network_changes():
    async def main():
        listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0")
        async with AsyncExitStack() as stack:
            me, near, far = [
                await stack.enter_async_context(open_libp2p(quick(listen=where)))
                for where in (listen, (LOOPBACK,), (LOOPBACK,))
            ]
            at = {text.split("/")[2]: text for text in me.addresses()}
            await near.connect([at["127.0.0.1"]], timeout_s=5)
            await far.connect([at["127.0.0.2"]], timeout_s=5)
            await until(lambda: len(me.peers()) == 2)
            gone = []
            me.watch(lambda e: gone.append(e) if isinstance(e, Down) else None)
            me.leave({"127.0.0.1"})
            await until(lambda: gone)
            assert gone == [Down(far.me, "the network has changed")]
            assert list(me.peers()) == [near.me]
            me.leave(set())  # also what we dialled, and to the very last
            near.leave(set())
            await until(lambda: not me.peers() and not near.peers())

    run(main)
