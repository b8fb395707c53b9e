"""Circuits through relays, both ways: circuit relay v2, the client.

Nothing a relay says is believed but "yes": where a circuit leads is what the far end's
keys prove, and the path that is shown is the one at which *we* reached the relay. (The
library dials circuits only by a call of its own, never by ``connect``, asks for a
reservation to do so, and shows itself as the relay of what comes in.)
"""

import logging
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import IHost, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as PeerMessage
from multiaddr import Multiaddr

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId, shown
from p2p.circuit import circuit_to
from p2p.libp2p.hops import (
    HOP,
    STOP,
    direct,
    heard,
    let_go,
    peer_of_bytes,
    read_circuit,
    said,
)

UPGRADE_S = 15.0  # longest handshake with the far end
MAX_CALLS = 16  # circuits that are being opened to us at one moment
_MAY_PASS = (Status.NO_RESERVATION, Status.CONNECTION_FAILED)
log = logging.getLogger(__name__)

Reach = Callable[[str], Awaitable[PeerId]]
"""Connects directly to an address; raises PeerLostError or ProtocolError."""


class Circuits:
    """Opens circuits, and takes those that our relays offer, while it is open.

    For the host's own trio thread.
    """

    def __init__(
        self, host: IHost, reach: Reach, relay_at: Callable[[PeerId], str | None]
    ) -> None:
        """Serve ``host``.

        Args:
            host: a running host.
            reach: connects to a relay that is not connected.
            relay_at: returns the address of a relay at which we have reserved; None
                for any other peer.
        """
        self.host, self.reach, self.relay_at = host, reach, relay_at
        self._calls: dict[INetStream, trio.CancelScope] = {}

    def open(self) -> None:
        """Begin to take circuits."""
        self.host.set_stream_handler(STOP, self._take_call)

    def close(self) -> None:
        """Take no more circuits."""
        self.host.remove_stream_handler(STOP)

    async def dial(self, address: str) -> PeerId:
        """Connect to the peer at a circuit address, and return its id.

        The connection is then the host's as any other.

        Raises:
            ProtocolError: ``address`` is no circuit address, or the relay refused.
            PeerLostError: the relay or the peer cannot be reached.
        """
        relay, relay_peer, peer = read_circuit(address)
        if not direct(self.host, relay_peer):
            await self.reach(relay)
        to = PeerMessage(id=ID.from_base58(peer).to_bytes())
        request = HopMessage(type=HopMessage.CONNECT, peer=to)
        stream, reply = await asked(self.host, relay_peer, request)
        try:
            check(relay_peer, reply)
            await self._upgrade_out(stream, Multiaddr(address), peer)
        except BaseException:
            await let_go(stream)
            raise
        return peer

    async def _upgrade_out(
        self, stream: INetStream, address: Multiaddr, peer: PeerId
    ) -> None:
        raw = RawConnection(stream, True, ConnectionType.RELAYED, [address])
        try:
            with trio.fail_after(UPGRADE_S):
                to = ID.from_base58(peer)
                await self.host.upgrade_outbound_connection(raw, to)
        except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
            why = shown(str(error) or type(error).__name__)
            raise PeerLostError(f"{peer} through a relay: {why}") from None

    async def _take_call(self, stream: INetStream) -> None:
        """A relay offers a circuit: take it if it is one of ours."""
        relay = str(stream.muxed_conn.peer_id)
        place = self.relay_at(relay)
        if place is None:
            log.info("refused a circuit through %s, which is no relay of ours", relay)
            await let_go(stream)
            return
        if (
            len(self._calls) >= MAX_CALLS
        ):  # the oldest makes room: honest ones are quick
            self._calls.pop(next(iter(self._calls))).cancel()
        try:
            with trio.fail_after(UPGRADE_S) as self._calls[stream]:
                await self._accept(stream, relay, place)
        except Exception as error:  # noqa: BLE001 - a stranger's handshake may break
            log.info("a circuit through %s failed: %s", relay, shown(str(error)))
            await let_go(stream)
        finally:
            self._calls.pop(stream, None)

    async def _accept(self, stream: INetStream, relay: PeerId, place: str) -> None:
        call = await heard(stream, StopMessage)
        if call.type != StopMessage.CONNECT:
            raise ProtocolError(f"relay {relay} sent no CONNECT")
        caller = peer_of_bytes(call.peer.id)
        await said(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
        address = Multiaddr(circuit_to(caller, place))
        raw = RawConnection(stream, False, ConnectionType.RELAYED, [address])
        muxed = await self.host.upgrade_inbound_connection(raw, address)
        if str(muxed.peer_id) != caller:
            await muxed.close()
            wrong = f"relay {relay} announced {caller}, but {muxed.peer_id} came"
            raise ProtocolError(wrong)


async def asked(
    host: IHost, relay: PeerId, request: HopMessage
) -> tuple[INetStream, HopMessage]:
    """Return the stream of one request to a relay, and the relay's reply."""
    stream: INetStream | None = None
    try:
        with trio.fail_after(UPGRADE_S):
            stream = await host.new_stream(ID.from_base58(relay), [HOP])
        await said(stream, request)
        return stream, await heard(stream, HopMessage)
    except BaseException as error:
        if stream is not None:
            await let_go(stream)
        if not isinstance(error, Exception):
            raise
        why = shown(str(error) or type(error).__name__)
        raise PeerLostError(f"relay {relay} did not answer: {why}") from None


def check(relay: PeerId, reply: HopMessage) -> None:
    """Raise unless the relay said yes."""
    if reply.type != HopMessage.STATUS:
        raise ProtocolError(f"relay {relay} answered with a request")
    if reply.status != Status.OK:
        known = reply.status in Status.values()
        word = Status.Name(reply.status) if known else str(reply.status)
        kind = PeerLostError if reply.status in _MAY_PASS else ProtocolError
        raise kind(f"relay {relay} refused: {word.lower().replace('_', ' ')}")
