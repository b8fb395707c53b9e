"""Peers over libp2p: TCP or WebSocket, Noise, yamux, and our own requests on top."""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr

from fedcore.errors import ConfigError, FedError, ProtocolError
from fedcore.names import PeerId
from p2p.circuit import is_circuit
from p2p.libp2p.asking import Asker, protocol_of
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.dialing import Dialer, Race, direct_dialer, target_of, unreached
from p2p.libp2p.heartbeat import BEAT, Heartbeat
from p2p.libp2p.host import build_host, listen_addresses
from p2p.libp2p.links import Links, close_all, place_of
from p2p.libp2p.serving import Server
from p2p.machine import Down, Up
from p2p.transport import Handler, Path, Watcher

log = logging.getLogger(__name__)


class Libp2pTransport:
    """Implements ``p2p.transport.Transport``. Used in the trio thread that opened it.

    Attributes:
        host: the running libp2p host, for parts that serve protocols of libp2p.
        nursery: where parts run their tasks; it is cancelled when the transport ends.
        dialers: asked in turn who can dial an address; parts add theirs.
        announced: asked for addresses besides those we listen on, such as one that a
            router maps to us or a circuit; parts add theirs.
        config: as it was opened.
    """

    def __init__(
        self,
        config: Libp2pConfig,
        host: BasicHost,
        swarm: Swarm,
        nursery: trio.Nursery,
        announced: list[Callable[[], Sequence[str]]],
    ) -> None:
        self.config, self.host, self.nursery = config, host, nursery
        self.announced = announced
        self.dialers: list[Dialer] = [direct_dialer(swarm)]
        self.links = Links(swarm, nursery, config.quotas.banned_s)
        asker = Asker(nursery, self.links.connection_to, config.quotas)
        self.heartbeat = Heartbeat(config.beat_s, asker, self.links.hang_up)
        self._asker = asker
        self._server = Server(config.quotas, self.links, self.heartbeat.heard)
        self.serve(BEAT, self._beat)
        self.watch(self._follow)

    @property
    def me(self) -> PeerId:
        return self.links.me

    def peers(self) -> Collection[PeerId]:
        return self.links.peers()

    def path(self, peer: PeerId) -> Path | None:
        """Return how ``peer`` is reached now; None if it is not."""
        return self.links.path(peer)

    def watch(self, watcher: Watcher) -> None:
        self.links.watch(watcher)

    def addresses(self) -> list[str]:
        """Return where others can dial us: multiaddrs that end in /p2p/<me>."""
        direct = [str(a) for a in self.host.get_addrs()]
        announced = [text for source in self.announced for text in source()]
        circuits = [text for text in announced if is_circuit(text)]
        return list(dict.fromkeys(direct + circuits))

    def observed(self) -> list[str]:
        """Return the addresses at which two trusted peers or more agree to see us."""
        return self.heartbeat.seen.confirmed()

    def trust(self, peers: Collection[PeerId]) -> None:
        """Believe ``peers``, and nobody else, where they see us."""
        self.heartbeat.seen.trusted = frozenset(peers)

    def listen_elsewhere(self, received_bytes: Callable[[PeerId], int]) -> None:
        """Take it as a sign of life when ``received_bytes`` of a peer has grown.

        A link that is full of other data delays what is said here.
        """
        self.heartbeat.elsewhere = received_bytes

    def leave(self, hosts: Collection[str]) -> None:
        """End the connections that this machine, now at ``hosts``, has no more."""
        self.links.leave(hosts)

    def serve(self, protocol: str, handler: Handler) -> None:
        serve = self._server.stream_handler(protocol, handler)
        self.host.set_stream_handler(protocol_of(protocol), serve)

    async def ask(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float
    ) -> bytes:
        answer = await self._asker.ask(peer, protocol, body, timeout_s)
        self.heartbeat.heard(peer)
        return answer

    async def tell(self, peer: PeerId, protocol: str, body: bytes) -> None:
        await self._asker.tell(peer, protocol, body)

    async def connect(
        self, addresses: Sequence[str], *, timeout_s: float, again: bool = False
    ) -> PeerId:
        """Connect to the first peer of ``addresses`` that can be reached.

        Args:
            addresses: multiaddrs that end in /p2p/<peer>, the best first; those of one
                peer or of several.
            timeout_s: longest attempt at all of them, in seconds.
            again: dial even if one of the peers is connected already, such as to
                replace a circuit by a direct connection.

        Raises:
            PeerLostError: none could be reached; it says what was tried and why not.
        """
        failures: list[str] = []
        targets = []
        for text in addresses:
            try:
                target = target_of(text)
            except ProtocolError as error:
                failures.append(str(error))
                continue
            if why := self.links.unwanted(target.peer):
                failures.append(f"{target.address}: {why}")
            elif target.peer in self.links.peers() and not again:
                return target.peer
            else:
                targets.append(target)
        race = Race(self.dialers, self.config.stagger_s, self.config.dial_s)
        with trio.move_on_after(timeout_s):
            if (won := await race.run(targets, failures)) is not None:
                return won.peer
            raise unreached(failures)
        raise unreached([*failures, f"no more time after {timeout_s:g} s"])

    async def disconnect(self, peer: PeerId) -> None:
        """End all connections with ``peer``, if there are any."""
        self.links.hang_up(peer, "hung up")
        await trio.lowlevel.checkpoint()

    def _follow(self, event: Up | Down) -> None:
        follow = self.heartbeat.up if isinstance(event, Up) else self.heartbeat.down
        follow(event.peer)

    async def _beat(self, peer: PeerId, body: bytes) -> bytes:
        return place_of(self.links.connection_to(peer)).encode()[:64]


@asynccontextmanager
async def open_libp2p(config: Libp2pConfig) -> AsyncIterator[Libp2pTransport]:
    """Run a node while the block runs. For one trio task: enter and leave in it.

    Raises:
        ConfigError: an address of ``config.listen`` is wrong, or in use.
    """
    listen = listen_addresses(config)
    announced: list[Callable[[], Sequence[str]]] = []

    def extra() -> list[Multiaddr]:
        # The library would make a relay's own address, with our name, of a circuit.
        texts = [text for source in announced for text in source()]
        return [Multiaddr(text) for text in texts if not is_circuit(text)]

    host, swarm = build_host(config, extra)
    failure: FedError | None = None  # outside of the nurseries' groups
    async with trio.open_nursery() as outer:
        stop = await outer.start(_run_host, host, swarm, listen)
        try:
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                transport = Libp2pTransport(config, host, swarm, nursery, announced)
                nursery.start_soon(transport.heartbeat.run)
                nursery.start_soon(host.get_peerstore().start_cleanup_task, 60)
                try:
                    _check_listening(swarm, listen)
                    for part in config.parts:
                        await stack.enter_async_context(part(transport))
                    yield transport
                except FedError as error:
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            await close_all(swarm)
            stop.set()
    if failure is not None:
        raise failure


def _check_listening(swarm: Swarm, listen: Sequence[Multiaddr]) -> None:
    missing = {str(a) for a in listen} - set(swarm.listeners)
    if missing:
        raise ConfigError(f"cannot listen on {', '.join(sorted(missing))}")


async def _run_host(
    host: BasicHost,
    swarm: Swarm,
    listen: Sequence[Multiaddr],
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]
) -> None:
    """Run ``host`` until the event that this starts with is set.

    It is not cancelled from outside: cancelled while it closes a connection, the
    library counts that as closed and leaves its socket open. Those it listens on it
    would leave open in any case.
    """
    stop = trio.Event()
    with trio.CancelScope() as scope:
        scope.shield = True
        async with host.run(listen):
            task_status.started(stop)
            await stop.wait()
            for listener in swarm.listeners.values():
                await listener.close()
            await swarm.transport_manager.close_all()
