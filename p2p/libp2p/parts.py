"""What may run beside a transport: relaying, being relayed, asking who can dial us.

Each class is a ``Part`` of ``Libp2pConfig``: made in any thread, entered in the mesh's
own. Its other methods may be called from any thread at any time, and return at once.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import NamedTuple, cast

import trio
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from fedcore.errors import FedError, PeerLostError
from fedcore.names import PeerId
from p2p.circuit import is_circuit
from p2p.libp2p.allowance import RelayCounts, RelayLimits
from p2p.libp2p.circuits import Circuits
from p2p.libp2p.dialback import DialBack
from p2p.libp2p.dialing import Target
from p2p.libp2p.faults import translated
from p2p.libp2p.heartbeat import BEAT
from p2p.libp2p.hops import read_relay, source_for
from p2p.libp2p.punching import Puncher
from p2p.libp2p.reachability import Kind, Reachability
from p2p.libp2p.relay import Relay
from p2p.libp2p.reservations import Reservations
from p2p.libp2p.transport import Libp2pTransport
from p2p.members.places import Reach, read_place

REACH_S = 15.0  # longest attempt to reach a relay
Context = AbstractAsyncContextManager[object]


class _Thread:
    """A way into the thread of a part: before and after it runs, words get lost."""

    token: trio.lowlevel.TrioToken | None = None

    def soon(self, action: Callable[[], object]) -> None:
        if self.token is not None:
            try:
                self.token.run_sync_soon(action)
            except trio.RunFinishedError:
                self.token = None


class Relaying:
    """Serves as a relay for others."""

    def __init__(
        self,
        limits: RelayLimits | None = None,
        outside: str = "",
        allow: Callable[[PeerId], bool] = lambda peer: True,
    ) -> None:
        """See ``relay.Relay``; ``allow`` is called in the mesh's thread.

        Args:
            limits: what to give at most.
            outside: the IP address at which the world reaches this machine, if its
                owner has said so.
            allow: whom to serve.
        """
        self.limits, self.allow, self.outside = limits or RelayLimits(), allow, outside
        self.counts = RelayCounts()

    def __call__(self, transport: Libp2pTransport) -> Context:
        return self._run(transport)

    @asynccontextmanager
    async def _run(self, transport: Libp2pTransport) -> AsyncIterator[object]:
        relay = Relay(transport.host, self.limits, self.allow)
        self.counts = relay.counts
        port = (source_for(transport.host, ":" in self.outside) or ("", 0))[1]
        if self.outside and port:
            text = f"/ip{6 if ':' in self.outside else 4}/{self.outside}/tcp/{port}"
            transport.announced.append(lambda: [text])
        relay.open()
        try:
            yield relay
        finally:
            relay.close()


class RelayState(NamedTuple):
    """How it stands with one relay; ``words`` say why, for people."""

    relay: str
    peer: PeerId
    held: bool
    words: str


class Relayed:
    """Lets others reach us through relays, and us reach others that way."""

    def __init__(
        self,
        relays: Sequence[str],
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
        from_port: bool = False,
    ) -> None:
        """Reserve at ``relays`` from the start; see ``Reservations``.

        Args:
            relays: addresses that end with the relays' ids.
            rng: spreads retries.
            changed: called in the mesh's thread when the state of a relay changed.
            from_port: dial relays from the port we listen on, so that the address
                at which they see us is one that ``Punching`` can use.
        """
        self.from_port = from_port
        self.relays, self.rng, self.changed = tuple(relays), rng, changed
        self._thread = _Thread()
        self._states: tuple[RelayState, ...] = ()
        self._held: Reservations

    def use(self, relays: Sequence[str]) -> None:
        """Reserve at these relays from now on, and no longer at others."""
        self.relays = tuple(relays)
        self._thread.soon(lambda: self._held.use(self.relays))

    def hurry(self) -> None:
        """Look at all relays at once: the network has changed."""
        self._thread.soon(lambda: self._held.hurry())

    def states(self) -> Sequence[RelayState]:
        """Return how it stands with each relay."""
        return self._states

    def __call__(self, transport: Libp2pTransport) -> Context:
        return self._run(transport)

    @asynccontextmanager
    async def _run(self, transport: Libp2pTransport) -> AsyncIterator[object]:
        async def reach(address: str) -> PeerId:
            if self.from_port:
                with suppress(PeerLostError):
                    return await _reach_from_port(transport, address)
            return await transport.connect([address], timeout_s=REACH_S, again=True)

        held = Reservations(transport.host, reach, self.rng, self._note)
        circuits = Circuits(transport.host, reach, held.relay_at)
        self._held, self._thread.token = held, trio.lowlevel.current_trio_token()
        held.use(self.relays)
        transport.dialers.append(lambda target: _dial(circuits, target))
        transport.announced.append(held.addresses)
        transport.nursery.start_soon(held.run)
        circuits.open()
        try:
            yield held
        finally:
            circuits.close()

    def _note(self) -> None:
        leases = self._held.leases.values()
        self._states = tuple(
            RelayState(x.relay, x.peer, x.held, x.words) for x in leases
        )
        self.changed()


async def _reach_from_port(transport: Libp2pTransport, address: str) -> PeerId:
    place, peer = read_place(address), read_relay(address)[1]
    swarm = cast(Swarm, transport.host.get_network())
    source = source_for(transport.host, ":" in place.host)
    with translated(peer, "dialling"), trio.fail_after(REACH_S):
        await swarm.dial_addr(Multiaddr(address), ID.from_base58(peer), source)
    with suppress(FedError):  # where the relay sees us; the next beat would tell, too
        word = await transport.ask(peer, BEAT, b"", timeout_s=REACH_S)
        transport.heartbeat.seen.note(peer, word.decode("ascii", "replace"))
    return peer


async def _dial(circuits: Circuits, target: Target) -> bool:
    if not is_circuit(str(target.address)):
        return False
    await circuits.dial(str(target.address))
    return True


class Punching:
    """Replaces circuits by direct connections where it can; see ``punching``."""

    def __init__(self, nearest: Reach = Reach.LAN) -> None:
        """Prepare; places nearer than ``nearest`` are not dialled."""
        self.nearest = nearest

    def __call__(self, transport: Libp2pTransport) -> Context:
        return self._run(transport)

    @asynccontextmanager
    async def _run(self, transport: Libp2pTransport) -> AsyncIterator[object]:
        def relayed() -> Sequence[PeerId]:
            paths = {peer: transport.path(peer) for peer in transport.peers()}
            return [p for p, path in paths.items() if path and path.kind == "relayed"]

        def seen() -> Sequence[str]:
            return [place for place in transport.heartbeat.seen.by.values() if place]

        puncher = Puncher(transport.host, seen, relayed, self.nearest)
        puncher.open()
        transport.nursery.start_soon(puncher.run)
        try:
            yield puncher
        finally:
            puncher.close()


class Reachable:
    """Finds out whether the world can dial us, and tells others whether we can them."""

    def __init__(
        self,
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
        nearest: Reach = Reach.PUBLIC,
    ) -> None:
        """See ``reachability.Reachability``; every connected peer may be asked."""
        self.rng, self.changed, self.nearest = rng, changed, nearest
        self.kind: Kind = "unknown"
        self.words = "not asked yet"
        self._thread = _Thread()
        self._asking: Reachability

    def hurry(self) -> None:
        """Ask again: the network has changed."""
        self._thread.soon(lambda: self._asking.hurry())

    def __call__(self, transport: Libp2pTransport) -> Context:
        return self._run(transport)

    @asynccontextmanager
    async def _run(self, transport: Libp2pTransport) -> AsyncIterator[object]:
        host = transport.host
        answering = DialBack(host, cast(Swarm, host.get_network()))
        asking = Reachability(
            host, lambda: list(transport.peers()), self.rng, self._note, self.nearest
        )
        self._asking, self._thread.token = asking, trio.lowlevel.current_trio_token()
        transport.announced.append(asking.outside)
        answering.open()
        transport.watch(lambda event: asking.met())
        transport.nursery.start_soon(asking.run)
        try:
            yield asking
        finally:
            answering.close()

    def _note(self) -> None:
        self.kind, self.words = self._asking.kind(), self._asking.words()
        self.changed()
