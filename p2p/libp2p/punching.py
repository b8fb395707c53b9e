"""From a circuit to a direct connection: libp2p's DCUtR, over TCP.

Optional and off unless it is among a node's parts, for a node does not need it: bulk
goes over the data channel, whose own punch (``p2p.nat``) does not touch the control
connection. It is for nodes that talk to other libp2p programs, and for those whose
relay should carry as little as possible.

Who was called tells where it is seen and asks the same; half a round trip after its
"now", both dial from the port they listen on, so that two routers that each let out a
packet let the other's in. Where a router changes the port, the guess "same port" fails;
so the addresses at which others see us count too, which are of use when the relay was
dialled from the listening port (``from_port``). QUIC cannot be punched with py-libp2p:
it dials each time from a fresh UDP socket, whose place in the router is not the one
that was announced, and upgrades no QUIC connection as the one that was called.

The library's own service dials whatever addresses a peer names; here, few, and none of
services of the system.

Source: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.rcmgr.metrics import Direction
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId, shown
from p2p.libp2p.dialback import place_of
from p2p.libp2p.hops import (
    direct,
    heard,
    is_relayed,
    let_go,
    listening,
    said,
    source_for,
    through_relay,
)
from p2p.members.places import Place, Reach, read_place

DCUTR = TProtocol("/libp2p/dcutr")
MAX_ADDRESSES = 4  # that a peer may make us dial
MAX_HOSTS = 2  # of them, different machines
LOWEST_PORT = 1024
MAX_PUNCHES = 8  # under way at one moment
TRIES = 3  # for one peer, ever more seconds apart
DIAL_S = 4.0
LOOK_S = 2.0
LATE_S = 0.1  # whom the other side calls first is a server on both sides, and stuck
SETTLE_S = 5.0  # what is under way through the relay may end
log = logging.getLogger(__name__)

Watched = Callable[[], Sequence[PeerId]]


class Puncher:
    """Replaces circuits by direct connections. For the host's own trio thread."""

    def __init__(
        self,
        host: BasicHost,
        seen: Callable[[], Iterable[str]],
        relayed: Watched,
        nearest: Reach = Reach.LAN,
    ) -> None:
        """Prepare.

        Args:
            host: a running host that listens on TCP.
            seen: returns the addresses at which others see us.
            relayed: returns the peers with whom we have only a circuit.
            nearest: places nearer than this are not dialled.
        """
        self.host, self.seen, self.relayed, self.nearest = host, seen, relayed, nearest
        self._punches: set[PeerId] = set()
        self._tries: dict[PeerId, tuple[int, float]] = {}

    def open(self) -> None:
        """Begin to answer others."""
        self.host.set_stream_handler(DCUTR, self._serve)

    def close(self) -> None:
        """Answer no more."""
        self.host.remove_stream_handler(DCUTR)

    async def run(self) -> None:
        """Try all circuits that others opened to us, until cancelled; never raise."""
        async with trio.open_nursery() as nursery:
            while True:
                relayed = {peer for peer in self.relayed() if self._called_us(peer)}
                for peer in self._tries.keys() - relayed:
                    del self._tries[peer]
                for peer in relayed:
                    if self._is_due(peer):
                        nursery.start_soon(self._upgrade, peer)
                await trio.sleep(LOOK_S)

    def _called_us(self, peer: PeerId) -> bool:
        """Return whether it was ``peer`` who opened the circuit: one side punches."""
        connections = self.host.get_network().get_connections(ID.from_base58(peer))
        return any(
            isinstance(c, SwarmConn) and c.direction == Direction.INBOUND
            for c in connections
        )

    def _is_due(self, peer: PeerId) -> bool:
        tries, next_s = self._tries.get(peer, (0, 0.0))
        now_s = trio.current_time()
        if tries >= TRIES or now_s < next_s or len(self._punches) >= MAX_PUNCHES:
            return False
        self._tries[peer] = tries + 1, now_s + 5.0 * 3**tries
        return peer not in self._punches

    async def _upgrade(self, peer: PeerId) -> None:
        try:
            await self.punch(peer)
        except (PeerLostError, ProtocolError) as error:
            log.debug("no direct connection with %s: %s", peer, error)
            return
        log.info("connected directly with %s", peer)
        await trio.sleep(SETTLE_S)
        for connection in self.host.get_network().get_connections(ID.from_base58(peer)):
            if direct(self.host, peer) and through_relay(connection.muxed_conn):
                with suppress(Exception):
                    await connection.close()

    async def punch(self, peer: PeerId) -> None:
        """Connect directly with a peer that we have a circuit with.

        Raises:
            PeerLostError: it did not work.
            ProtocolError: the peer answers nonsense.
        """
        self._punches.add(peer)
        stream: INetStream | None = None
        try:
            with trio.fail_after(3 * DIAL_S):
                stream = await self.host.new_stream(ID.from_base58(peer), [DCUTR])
                start_s = trio.current_time()
                await said(stream, self._offer(HolePunch.CONNECT))
                places = self._places(await heard(stream, HolePunch))
                trip_s = trio.current_time() - start_s
                await said(stream, HolePunch(type=HolePunch.SYNC))
                await trio.sleep(trip_s / 2 + LATE_S)
                await self._dial(peer, places, called=True)
        except ProtocolError:
            raise
        except Exception as error:
            why = shown(str(error) or type(error).__name__)
            raise PeerLostError(f"{peer}: {why}") from error
        finally:
            self._punches.discard(peer)
            if stream is not None:
                await let_go(stream)
        if not direct(self.host, peer):
            raise PeerLostError(f"{peer}: nothing came through")

    async def _serve(self, stream: INetStream) -> None:
        """Answer a peer that we called, and dial when it says so."""
        peer = str(stream.muxed_conn.peer_id)
        useless = direct(self.host, peer) or not is_relayed(stream)
        if useless or peer in self._punches or len(self._punches) >= MAX_PUNCHES:
            await let_go(stream)
            return
        self._punches.add(peer)
        try:
            with trio.fail_after(3 * DIAL_S):
                places = self._places(await heard(stream, HolePunch))
                await said(stream, self._offer(HolePunch.CONNECT))
                if (await heard(stream, HolePunch)).type == HolePunch.SYNC:
                    await self._dial(peer, places, called=False)
        except Exception as error:  # noqa: BLE001 - however a peer's stream may break
            log.debug("no direct connection with %s: %s", peer, shown(str(error)))
        finally:
            self._punches.discard(peer)
            await let_go(stream)

    def _offer(self, kind: "HolePunch.Type.ValueType") -> HolePunch:
        message = HolePunch(type=kind)
        raw = [Multiaddr(text).to_bytes() for text in self._own()]
        message.ObsAddrs.extend(raw[:MAX_ADDRESSES])
        return message

    def _own(self) -> list[str]:
        """Return where we may be reached: as seen, and at the ports we listen on."""
        own: dict[str, None] = {}
        places = [place for text in self.seen() for place in _read(text)]
        for place in places:
            own[place.text] = None
        for ip, port in listening(self.host):
            for place in places:
                if (":" in place.host) == (":" in ip):
                    own[f"{place.text.rpartition('/')[0]}/{port}"] = None
            own[f"/ip{6 if ':' in ip else 4}/{ip}/tcp/{port}"] = None
        return [text for text in own if text]

    def _places(self, message: HolePunch) -> list[Place]:
        """Return where the peer may be, as far as we dare to dial it.

        Raises:
            ProtocolError: it is no CONNECT.
        """
        if message.type != HolePunch.CONNECT:
            raise ProtocolError("expected CONNECT")
        hosts: set[str] = set()
        places = []
        for raw in message.ObsAddrs[: 4 * MAX_ADDRESSES]:
            place = place_of(raw)
            if place is None or not self.nearest <= place.reach <= Reach.PUBLIC:
                continue
            if place.port >= LOWEST_PORT and len(hosts | {place.host}) <= MAX_HOSTS:
                hosts.add(place.host)
                places.append(place)
        return places[:MAX_ADDRESSES]

    async def _dial(self, peer: PeerId, places: Sequence[Place], called: bool) -> None:
        """Dial ``peer`` at all places at once until there is a direct connection."""
        with trio.move_on_after(DIAL_S):
            async with trio.open_nursery() as nursery:
                for place in places:
                    nursery.start_soon(self._dial_one, peer, place, called)

    async def _dial_one(self, peer: PeerId, place: Place, called: bool) -> None:
        """Dial from our listening port, in the role that both sides expect."""
        swarm = cast(Swarm, self.host.get_network())
        to = Multiaddr(f"{place.text.partition('/p2p/')[0]}/p2p/{peer}")
        source = source_for(self.host, ":" in place.host)
        dial = swarm.dial_addr_as_responder if called else swarm.dial_addr
        while not direct(self.host, peer):
            try:
                await dial(to, ID.from_base58(peer), source)
            except Exception as error:  # noqa: BLE001 - the next attempt may do better
                log.debug("punching %s: %s", place.text, shown(str(error)))
            await trio.sleep(0.1)


def _read(text: str) -> list[Place]:
    with suppress(ProtocolError):
        return [read_place(text)]
    return []
