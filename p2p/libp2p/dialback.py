"""Tries to dial peers that ask whether they can be dialled: AutoNAT v1, the server.

It dials only the address that a question came from, with the ports that the question
names, lets the asker prove its key there, and hangs up. The library's own server takes
a connection that exists already for a proof, and dials in anybody's name.
"""

import ipaddress
import logging
from collections.abc import Sequence

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown
from p2p.libp2p.hops import heard, ip_of, is_relayed, let_go, said
from p2p.members.places import Place, Reach, read_place

AUTONAT = TProtocol("/libp2p/autonat/1.0.0")
DIAL_S = 5.0
MAX_DIALS = 16  # under way at one moment
MAX_PORTS = 3  # of one question
MAX_ADDRESSES = 16  # of one question that are read
EVERY_S = 10.0  # one question of a peer in so many seconds
MAX_ASKERS = 1024  # that are remembered for it
log = logging.getLogger(__name__)


class DialBack:
    """Tries to dial those who ask, while it is open. For the host's trio thread."""

    def __init__(self, host: BasicHost, swarm: Swarm) -> None:
        self.host, self.swarm = host, swarm
        self._dials = 0
        self._last_s: dict[PeerId, float] = {}

    def open(self) -> None:
        """Begin to answer."""
        self.host.set_stream_handler(AUTONAT, self._serve)

    def close(self) -> None:
        """Answer no more."""
        self.host.remove_stream_handler(AUTONAT)

    async def _serve(self, stream: INetStream) -> None:
        try:
            request = await heard(stream, Message)
            await said(stream, await self._answer(stream, request))
            await stream.close()
        except Exception as error:  # noqa: BLE001 - however a peer's stream may break
            log.debug("dial back: a question broke: %s", shown(str(error)))
            await let_go(stream)

    async def _answer(self, stream: INetStream, request: Message) -> Message:
        peer, ip = str(stream.muxed_conn.peer_id), ip_of(stream)
        if request.type != Message.DIAL or not ip or is_relayed(stream):
            return _answered(Message.E_DIAL_REFUSED, "not over a relay")
        if not self._may_ask(peer):
            return _answered(Message.E_INTERNAL_ERROR, "ask again later")
        self._dials += 1
        try:
            for address in back_addresses(request.dial.peer.addrs, ip):
                if await self._dial(address, peer):
                    return _answered(Message.OK, "", address)
        finally:
            self._dials -= 1
        return _answered(Message.E_DIAL_ERROR, f"nothing answers at {ip}")

    def _may_ask(self, peer: PeerId) -> bool:
        now_s = trio.current_time()
        if self._dials >= MAX_DIALS:
            return False
        if now_s - self._last_s.pop(peer, -EVERY_S) < EVERY_S:
            self._last_s[peer] = now_s
            return False
        self._last_s[peer] = now_s
        if len(self._last_s) > MAX_ASKERS:
            del self._last_s[next(iter(self._last_s))]
        return True

    async def _dial(self, address: str, peer: PeerId) -> bool:
        """Return whether ``peer`` proves its key on a new connection to ``address``."""
        to = Multiaddr(f"{address}/p2p/{peer}")
        transport = self.swarm.transport_manager.transport_for_dialing(to)
        raw = None
        try:
            with trio.fail_after(DIAL_S):
                raw = await transport.dial(to)  # type: ignore[union-attr]
                upgrade = self.swarm.upgrader.upgrade_security
                await upgrade(raw, True, ID.from_base58(peer))
        except Exception as error:  # noqa: BLE001 - a stranger's end may break in any way
            log.debug("dial back to %s: %s", address, shown(str(error)))
            return False
        finally:
            if raw is not None:
                with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                    await raw.close()
        return True


def back_addresses(claimed: Sequence[bytes], ip: str) -> list[str]:
    """Return ``ip``, which was seen, with each of the TCP ports that are claimed."""
    found: dict[str, None] = {}
    version = ipaddress.ip_address(ip).version
    for raw in claimed[:MAX_ADDRESSES]:
        place = place_of(raw)
        if place is not None and place.reach is not Reach.RELAYED:
            ws = "/ws" if "/ws" in place.text else ""
            found[f"/ip{version}/{ip}/tcp/{place.port}{ws}"] = None
    return list(found)[:MAX_PORTS]


def place_of(raw: bytes) -> Place | None:
    """Return the place that bytes of a stranger name; None if they name none."""
    try:
        return read_place(str(Multiaddr(raw))) if len(raw) <= 512 else None
    except (ProtocolError, MultiaddrError, ValueError, LookupError):
        return None


def _answered(
    status: "Message.ResponseStatus.ValueType", words: str, address: str = ""
) -> Message:
    answer = Message(type=Message.DIAL_RESPONSE)
    answer.dialResponse.status = status
    answer.dialResponse.statusText = words
    if address:
        answer.dialResponse.addr = Multiaddr(address).to_bytes()
    return answer
