"""Circuits that become direct connections; with routers, see ``tests/nat``."""

import pytest
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from fedcore.errors import ProtocolError
from p2p.circuit import CIRCUIT
from p2p.libp2p.parts import Punching, Relaying
from p2p.libp2p.punching import DCUTR, MAX_ADDRESSES, MAX_HOSTS, Puncher
from p2p.members.places import Reach
from tests.contract.wires import quick, until
from tests.e2e.test_libp2p_circuits import (
    circuits,
    echo,
    is_hung_up_on,
    nodes,
    relayed,
    run,
)

pytestmark = pytest.mark.slow


def punching(seed, nearest=Reach.HERE):
    part = relayed(seed=seed)
    return part, quick(parts=[part, Punching(nearest)])


async def meet(relay, part, ann, bob):
    part.use(relay.addresses())
    ann.serve("/echo/1", echo)
    await until(lambda: circuits(ann))
    assert await bob.connect(circuits(ann), timeout_s=10) == ann.me


def test_a_circuit_becomes_direct_and_both_sides_know():
    async def main():
        part, of_ann = punching(1)
        _, of_bob = punching(2)
        configs = quick(parts=[Relaying()]), of_ann, of_bob
        async with nodes(*configs) as (relay, ann, bob):
            await meet(relay, part, ann, bob)
            for a, b in ((ann, bob), (bob, ann)):
                await until(lambda a=a, b=b: a.path(b.me).kind == "direct")
            assert await bob.ask(ann.me, "/echo/1", b"", timeout_s=5)
            ports = {a.addresses()[0].split("/")[4] for a in (ann, bob)}
            assert ann.path(bob.me).address.split("/")[4] in ports

    run(main)


def test_what_a_peer_names_is_dialled_only_within_bounds():
    async def main():
        async with nodes(quick()) as (ann,):
            puncher = Puncher(ann.host, list, list)

            def dared(*texts):
                message = HolePunch(type=HolePunch.CONNECT)
                message.ObsAddrs.extend(Multiaddr(t).to_bytes() for t in texts)
                message.ObsAddrs.append(b"junk")
                return [p.text for p in puncher._places(message)]

            good = "/ip4/45.33.1.7/tcp/4001"
            assert dared(good, "/ip4/127.0.0.1/tcp/4001", "/dns/a.org/tcp/4001") == [
                good
            ]
            assert dared("/ip4/45.33.1.7/tcp/22", good + CIRCUIT) == []
            many = [f"/ip4/45.33.1.{i}/tcp/{4000 + i}" for i in range(1, 99)]
            assert len(dared(*many)) == MAX_HOSTS
            ports = [f"/ip4/45.33.1.1/tcp/{4000 + i}" for i in range(99)]
            assert len(dared(*ports)) == MAX_ADDRESSES
            with pytest.raises(ProtocolError):
                puncher._places(HolePunch(type=HolePunch.SYNC))

    run(main)


def test_who_is_connected_directly_cannot_make_us_dial():
    async def main():
        _, of_ann = punching(1)
        async with nodes(of_ann, quick()) as (ann, eve):
            await eve.connect(ann.addresses(), timeout_s=5)
            stream = await eve.host.new_stream(ID.from_base58(ann.me), [DCUTR])
            assert await is_hung_up_on(stream, HolePunch(type=HolePunch.CONNECT))

    run(main)
