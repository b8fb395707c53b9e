"""Builds the libp2p host: only Noise (and TLS), only yamux, only our limits.

The library's own constructor also offers plaintext, with which anybody can take any
name, and counts resources in a way that turns peers away for no reason; so the host is
put together from its parts.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable

import psutil
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol, TSecurityOptions
from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.websocket.transport import WebsocketTransport
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fedcore.errors import ConfigError
from fedcore.names import PeerId, shown
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.muxer import Muxer
from p2p.libp2p.sockets import Doorway, Sockets, Upgrader, check_free

OPENING_S = 10.0  # who has not proved a key by then is turned away
WILDCARDS = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104 - to find them
StreamHandler = Callable[[INetStream], Awaitable[None]]
log = logging.getLogger(__name__)

# The library calls ordinary things errors, such as an address where nobody answers;
# and one module logs with the functions of ``logging`` itself, which print to stderr
# in a program that has not set up its logging.
_loud = logging.getLogger("libp2p")
if _loud.level == logging.WARNING:  # as it comes; who debugs it has set another
    _loud.setLevel(logging.CRITICAL)
swarm_connection.logging = _loud  # type: ignore[assignment,attr-defined]


def build_host(
    config: Libp2pConfig, announced: Callable[[], Iterable[Multiaddr]]
) -> tuple[BasicHost, Swarm]:
    """Return a host that does not run yet, and its swarm.

    Args:
        config: what it is told.
        announced: addresses besides those it listens on.
    """
    pair = create_new_key_pair(config.key.seed)
    me, doorway = ID.from_pubkey(pair.public_key), Doorway(config.quotas.opening)
    upgrader = Upgrader(
        security_of(pair, config.tls), {TProtocol(YAMUX): Muxer}, doorway
    )
    store = PeerStore()
    store.add_key_pair(me, pair)
    transports = [Sockets(doorway), WebsocketTransport(upgrader)]
    limits = _limits(config.quotas.connections)
    swarm = Swarm(me, store, upgrader, transports, RetryConfig(max_retries=0), limits)
    swarm.auto_connector = _Passive(swarm)
    host = BasicHost(
        swarm,
        addrs_factory=lambda listened: [*concrete(listened), *announced()],
        disable_identify_address_discovery=True,
    )
    swarm.set_stream_handler(_guarded(host._swarm_stream_handler, config))
    return host, swarm


def security_of(pair: KeyPair, tls: bool) -> TSecurityOptions:
    """Return the ways in which a connection may be secured, the best first."""
    noise = Noise(pair, noise_privkey=create_noise_key_pair().private_key)
    return {NOISE: noise, TLS: TLSTransport(pair)} if tls else {NOISE: noise}


class _Passive(AutoConnector):
    """Dials nobody. The library's own dials whoever it has heard of, half the limit."""

    async def start(self) -> None:
        await self.stop()

    def record_disconnect(self, peer_id: ID) -> None:
        """Remember nothing."""


def _limits(connections: int) -> ConnectionConfig:
    return ConnectionConfig(
        max_connections=connections,
        high_watermark=connections,
        min_connections=0,
        low_watermark=0,
        max_connections_per_peer=8,
        inbound_upgrade_timeout=OPENING_S,
        outbound_upgrade_timeout=OPENING_S,
    )


def _guarded(handle: StreamHandler, config: Libp2pConfig) -> StreamHandler:
    """Return ``handle`` so that what a peer sends can end its stream, and no more.

    The library lets the errors of a stream's handler end the whole host.
    """
    most = config.quotas.streams_per_peer

    async def guarded(stream: INetStream) -> None:
        try:
            if len(stream.muxed_conn.streams) > 2 * most:  # type: ignore[attr-defined]
                await stream.reset()
            else:
                await handle(stream)
        except Exception as error:  # noqa: BLE001 - whatever it was, others go on
            log.debug("a stream of %s: %s", stream.muxed_conn.peer_id, error)
            await stream.reset()

    return guarded


def listen_addresses(config: Libp2pConfig) -> list[Multiaddr]:
    """Return what ``config`` says to listen on, when all of it can be had.

    Raises:
        ConfigError: an address is wrong, or in use.
    """
    addresses = []
    for text in config.listen:
        try:
            address = Multiaddr(text)
        except (MultiaddrError, ValueError) as error:
            raise ConfigError(f"cannot listen on {shown(text)}: {error}") from None
        check_free(address)
        addresses.append(address)
    return addresses


def concrete(addresses: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Return ``addresses`` with each wildcard replaced by what the machine has."""
    out: dict[str, Multiaddr] = {}
    for address in addresses:
        _, version, ip, *rest = str(address).split("/")
        own = interface_ips(WILDCARDS[ip]) if ip in WILDCARDS else [ip]
        for one in own:
            text = "/".join(["", version, one, *rest])
            out[text] = Multiaddr(text)
    return list(out.values())


def interface_ips(family: socket.AddressFamily) -> list[str]:
    """Return the IP addresses of this machine, those of the outside first."""
    found = [
        a.address
        for nics in psutil.net_if_addrs().values()
        for a in nics
        if a.family == family and not a.address.lower().startswith("fe80")
    ]
    return sorted(dict.fromkeys(found), key=lambda ip: ip in ("::1", "127.0.0.1"))


def peer_id(peer: PeerId) -> ID:
    """Return ``peer`` as the library writes it."""
    return ID.from_string(peer)


def handlers_of(host: BasicHost) -> Collection[TProtocol | None]:
    """Return the protocols that ``host`` answers."""
    return host.get_mux().get_protocols()
