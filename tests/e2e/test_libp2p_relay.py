"""Relays that lie, stall or babble: what their clients say about it, and do."""

import random

import pytest
import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    HopMessage,
    Reservation,
    Status,
    StopMessage,
)
from multiaddr import Multiaddr

from fedcore.errors import PeerLostError
from p2p.circuit import CIRCUIT
from p2p.identity.keys import Key
from p2p.libp2p.circuits import Circuits, asked, check
from p2p.libp2p.hops import HOP, STOP, heard, let_go, said
from p2p.libp2p.parts import Relayed, Relaying
from p2p.libp2p.reservations import MAX_RELAYS, Reservations
from tests.contract.wires import quick, until
from tests.e2e.test_libp2p_circuits import circuits, nodes, run

pytestmark = pytest.mark.slow
RESERVED = HopMessage(type=HopMessage.STATUS, status=Status.OK)


async def answer_with(node, reply):
    """Let ``node`` be a relay that answers everything with ``reply``."""

    async def serve(stream):
        await heard(stream, HopMessage)
        if isinstance(reply, bytes):
            await stream.write(reply)
        else:
            await said(stream, reply)
        await stream.close()

    node.host.set_stream_handler(HOP, serve)


def words_of(part):
    return "; ".join(state.words for state in part.states())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (HopMessage(type=HopMessage.RESERVE), "answered with a request"),
        (HopMessage(type=HopMessage.STATUS), "refused"),
        (HopMessage(type=HopMessage.STATUS, status=Status.RESERVATION_REFUSED), "ref"),
        (b"\xff" * 12, "did not answer"),
        (b"\x05hello", "did not answer"),
        (b"\x80\x80\x80\x01" + b"x" * 100, "did not answer"),  # 2 MiB are announced
        (b"", "did not answer"),
    ],
)
def test_a_relay_that_babbles_is_not_used_and_named(reply, words):
    async def main():
        part = Relayed([], random.Random(0))
        async with nodes(quick(), quick(parts=[part])) as (relay, ann):
            await answer_with(relay, reply)
            part.use(relay.addresses())
            await until(lambda: words in words_of(part))
            assert relay.me in words_of(part)
            assert circuits(ann) == []
            far = f"{relay.addresses()[0]}{CIRCUIT}/p2p/{Key(bytes(32)).peer}"
            with pytest.raises(PeerLostError, match=r"refused|answer"):
                await ann.connect([far], timeout_s=5)

    run(main)


def test_what_a_relay_claims_about_time_and_place_is_not_believed():
    lie = Reservation(expire=1, addrs=[b"/ip4/6.6.6.6/tcp/6", b"\xff" * 5000])
    reply = HopMessage(type=HopMessage.STATUS, status=Status.OK, reservation=lie)

    async def main():
        part = Relayed([], random.Random(0))
        async with nodes(quick(), quick(parts=[part])) as (relay, ann):
            await answer_with(relay, reply)
            part.use(relay.addresses())
            await until(lambda: circuits(ann))
            assert circuits(ann) == [f"{relay.addresses()[0]}{CIRCUIT}/p2p/{ann.me}"]

    run(main)


def test_a_relay_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr("p2p.libp2p.hops.MESSAGE_S", 0.3)
    monkeypatch.setattr(heard, "__defaults__", (0.3,))

    async def main():
        part = Relayed([], random.Random(0))
        async with nodes(quick(), quick(parts=[part])) as (relay, ann):

            async def stall(stream):
                await trio.sleep_forever()

            relay.host.set_stream_handler(HOP, stall)
            part.use(relay.addresses())
            await until(lambda: "did not answer" in words_of(part))
            assert circuits(ann) == []

    run(main)


def test_a_relay_cannot_pass_one_peer_off_as_another():
    """It announces Eve, and connects us with itself: the handshake tells."""

    async def main():
        part = Relayed([], random.Random(0))
        async with nodes(quick(), quick(parts=[part])) as (relay, ann):
            await answer_with(relay, RESERVED)
            part.use(relay.addresses())
            await until(lambda: circuits(ann))
            stream = await relay.host.new_stream(ID.from_base58(ann.me), [STOP])
            call = StopMessage(type=StopMessage.CONNECT)
            call.peer.id = ID.from_base58(Key(bytes(32)).peer).to_bytes()
            await said(stream, call)
            reply = await heard(stream, StopMessage)
            assert reply.status == Status.OK
            await through(relay, stream, ann)
            await trio.sleep(0.3)
            assert ann.peers() == [relay.me]
            assert ann.path(relay.me).kind == "direct"

    run(main)


async def through(node, stream, to):
    """Let ``node`` shake hands with ``to`` through ``stream`` in its own name."""
    place = [Multiaddr(f"/p2p/{node.me}{CIRCUIT}/p2p/{to.me}")]
    raw = RawConnection(stream, True, ConnectionType.RELAYED, place)
    with trio.move_on_after(2):
        await node.host.upgrade_outbound_connection(raw, ID.from_base58(to.me))


def test_only_so_many_relays_are_kept():
    async def main():
        async with nodes(quick()) as (ann,):
            held = Reservations(ann.host, None, random.Random(0))
            peers = [Key(bytes([i]) + bytes(31)).peer for i in range(100)]
            faults = held.use([f"/ip4/127.0.0.1/tcp/1/p2p/{p}" for p in peers])
            assert (faults, len(held.leases)) == ([], MAX_RELAYS)
            assert len(held.use(["nonsense", "/ip4/1.2.3.4/tcp/1"])) == 2
            assert held.leases == {}

    run(main)


def test_patience_doubles_up_to_twenty_seconds_and_is_never_the_same():
    held = Reservations(None, None, random.Random(0))
    waits = [held._patience_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 100, 10**6)]
    bounds = [1, 2, 4, 8, 16, 20, 20, 20, 20]
    assert all(b / 2 <= w <= b for w, b in zip(waits, bounds, strict=True))
    assert waits[-1] != waits[-2]


def test_a_reservation_in_anothers_name_is_in_ones_own():
    async def main():
        relaying = Relaying()
        configs = quick(parts=[relaying]), quick(), quick()
        async with nodes(*configs) as (relay, ann, eve):
            for node in (ann, eve):
                await node.connect(relay.addresses(), timeout_s=5)
            request = HopMessage(type=HopMessage.RESERVE)
            request.peer.id = ID.from_base58(ann.me).to_bytes()
            stream, reply = await asked(eve.host, relay.me, request)
            await let_go(stream)
            check(relay.me, reply)
            to_ann = f"{relay.addresses()[0]}{CIRCUIT}/p2p/{ann.me}"
            caller = Circuits(eve.host, None, lambda peer: None)
            with pytest.raises(PeerLostError, match="no reservation"):
                await caller.dial(to_ann)

    run(main)
