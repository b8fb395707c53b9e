"""Who is connected: one Up and one Down for each peer, however many connections."""

import logging
import time
from collections.abc import Collection
from contextlib import suppress

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.network.swarm import Swarm
from libp2p.peer.peerstore import PeerStoreError
from multiaddr import Multiaddr

from fedcore.errors import PeerLostError
from fedcore.names import PeerId
from p2p.circuit import is_circuit, parted, peer_in
from p2p.libp2p.host import peer_id
from p2p.machine import Down, Up
from p2p.transport import Path, Watcher

MAX_BANNED = 4096
ADMIT_S = 5.0
log = logging.getLogger(__name__)


class Links(INotifee):
    """Follows the connections of a swarm."""

    def __init__(self, swarm: Swarm, nursery: trio.Nursery, banned_s: float) -> None:
        self.me = str(swarm.get_peer_id())
        self._swarm, self._nursery, self._banned_s = swarm, nursery, banned_s
        self._up: dict[PeerId, dict[INetConn, float]] = {}  # since when each lasts
        self._why: dict[PeerId, str] = {}
        self._banned: dict[PeerId, tuple[float, str]] = {}
        self._coming: dict[PeerId, trio.Event] = {}
        self._watchers: list[Watcher] = []
        swarm.register_notifee(self)

    def peers(self) -> Collection[PeerId]:
        """Return who is connected, sorted."""
        return sorted(self._up)

    def watch(self, watcher: Watcher) -> None:
        """See ``p2p.transport``."""
        self._watchers.append(watcher)
        for peer in self.peers():
            watcher(Up(peer))

    async def admitted(self, peer: PeerId) -> bool:
        """Return whether ``peer`` is connected, once that is decided.

        Its first words may be here before the library tells us that it is.
        """
        if peer not in self._up:
            with trio.move_on_after(ADMIT_S):
                await self._coming.setdefault(peer, trio.Event()).wait()
            self._coming.pop(peer, None)
        return peer in self._up

    def connection_to(self, peer: PeerId) -> INetConn:
        """Return the best connection to ``peer``: direct before relayed, then newest.

        Raises:
            PeerLostError: there is none.
        """
        open_now = {c: s for c, s in self._up.get(peer, {}).items() if not c.is_closed}
        if not open_now:
            raise PeerLostError(f"{peer} is not connected")
        return max(open_now, key=lambda c: (not is_circuit(place_of(c)), open_now[c]))

    def path(self, peer: PeerId) -> Path | None:
        """Return how ``peer`` is reached; None if it is not."""
        try:
            connection = self.connection_to(peer)
        except PeerLostError:
            return None
        place, since_s = place_of(connection), self._up[peer][connection]
        circuit = parted(place)
        if circuit is None:
            return Path("direct", place, None, since_s)
        return Path("relayed", place, peer_in(circuit[0]), since_s)

    def drop(self, peer: PeerId, why: str) -> None:
        """End all connections with ``peer`` and let it in again only after a while."""
        if peer in self._up and peer not in self._why:
            log.warning("dropped %s: %s", peer, why)
            self._ban(peer, why)
            self.hang_up(peer, why)

    def hang_up(self, peer: PeerId, why: str) -> None:
        """End all connections with ``peer``."""
        if peer in self._up:
            self._why[peer] = why
        for connection in self._up.get(peer, {}):
            self._nursery.start_soon(close, connection)

    def leave(self, hosts: Collection[str]) -> None:
        """End the connections of addresses that this machine, at ``hosts``, lost.

        Circuits go with the connection to their relay.
        """
        for peer, connections in self._up.items():
            lost = [c for c in connections if _own_host(c) not in hosts]
            lost = [c for c in lost if not is_circuit(place_of(c))]
            if len(lost) == len(connections):
                self._why[peer] = "the network has changed"
            for connection in lost:
                self._nursery.start_soon(close, connection)

    def _ban(self, peer: PeerId, why: str) -> None:
        self._banned.pop(peer, None)
        self._banned[peer] = trio.current_time() + self._banned_s, why
        if len(self._banned) > MAX_BANNED:
            del self._banned[next(iter(self._banned))]

    def unwanted(self, peer: PeerId) -> str | None:
        """Return why ``peer`` is not to be connected; None if it may be."""
        if peer == self.me:
            return "this is my own id: another node runs with my key"
        until_s, why = self._banned.get(peer, (0.0, ""))
        if until_s > trio.current_time():
            return f"dropped a short while ago: {why}"
        return None

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = str(conn.muxed_conn.peer_id)
        if why := self.unwanted(peer):
            log.warning("turned %s away: %s", peer, why)
            self._nursery.start_soon(close, conn)
        else:
            link = self._up.setdefault(peer, {})
            link[conn] = time.monotonic()
            if len(link) == 1:
                self._why.pop(peer, None)
                self._tell(Up(peer))
        if (waiting := self._coming.pop(peer, None)) is not None:
            waiting.set()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        peer = str(conn.muxed_conn.peer_id)
        link = self._up.get(peer, {})
        if link.pop(conn, None) is not None and not link:
            del self._up[peer]
            with suppress(PeerStoreError):  # it knows nothing of the peer
                self._swarm.peerstore.clear_peerdata(peer_id(peer))
            self._tell(Down(peer, self._why.pop(peer, "the connection was closed")))

    def _tell(self, event: Up | Down) -> None:
        for watcher in self._watchers:
            watcher(event)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...
    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


async def close_all(swarm: Swarm) -> None:
    """End all connections of ``swarm``, together."""
    async with trio.open_nursery() as nursery:
        for connection in swarm.get_connections():
            nursery.start_soon(close, connection)


async def close(connection: INetConn) -> None:
    """End ``connection``, to the end: the library forgets one that it began to close.

    What it says about that is of no interest. The muxer sees to it that it takes
    seconds at most.
    """
    with trio.CancelScope() as scope:
        scope.shield = True
        try:
            await connection.close()
        except Exception as error:  # noqa: BLE001 - see above
            log.debug("closing a connection: %s", error)


def _own_host(connection: INetConn) -> str:
    return getattr(connection.muxed_conn, "own_host", "")


def place_of(connection: INetConn) -> str:
    """Return where ``connection`` leads, as a multiaddr; empty if nobody knows."""
    places = [str(a) for a in connection.get_transport_addresses()]
    return places[0] if places else ""
