"""Being reachable through relays: reservations that are kept for as long as we run.

Each is refreshed in time, and made anew, ever more patiently, when its relay died or
the network changed. A relay's dates are not read, for its clock may be wrong by a day:
a reservation is refreshed every few minutes. Nor are its addresses: the circuit
addresses we give out are those at which we reached it.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from libp2p.abc import IHost
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.circuit import circuit_to
from p2p.libp2p.circuits import Reach, asked, check
from p2p.libp2p.hops import direct, let_go, read_relay

REFRESH_S = 300.0  # longest time between two reservations at one relay
LOOK_S = 2.0  # how soon a relay that is gone is noticed
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 20.0  # without a relay nobody may find us
MAX_RELAYS = 8
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Lease:
    """How it stands with one relay, in words that a person can read.

    Attributes:
        relay: where it is dialled.
        peer: its id.
        held: whether others can reach us through it now.
        words: why not, or since which try.
    """

    relay: str
    peer: PeerId
    held: bool = False
    words: str = "not tried yet"
    failures: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    hurry: trio.Event = field(default_factory=trio.Event)


class Reservations:
    """A reservation at each of our relays. For the host's own trio thread."""

    def __init__(
        self,
        host: IHost,
        reach: Reach,
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``host``; nothing is dialled before ``run``.

        Args:
            host: a running host.
            reach: connects to a relay that is not connected.
            rng: spreads retries, so that peers do not come back all at once.
            changed: called whenever ``addresses`` or a lease changed.
        """
        self.host, self.reach, self.rng, self.changed = host, reach, rng, changed
        self.leases: dict[str, Lease] = {}
        self._nursery: trio.Nursery | None = None

    def use(self, relays: Sequence[str]) -> list[str]:
        """Reserve at these relays, and no longer at others; the first 8 count.

        Args:
            relays: dialable addresses that end with the relay's id.

        Returns:
            What is wrong with those that are none, a sentence each.
        """
        faults, wanted = [], {}
        for address in relays[:MAX_RELAYS]:
            try:
                relay, peer = read_relay(address)
            except ProtocolError as error:
                faults.append(str(error))
            else:
                wanted[relay] = peer
        for relay in self.leases.keys() - wanted.keys():
            self.leases.pop(relay).scope.cancel()
        for relay in wanted.keys() - self.leases.keys():
            self.leases[relay] = Lease(relay, wanted[relay])
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, self.leases[relay])
        self.changed()
        return faults

    def addresses(self) -> list[str]:
        """Return the circuit addresses at which others can reach us now."""
        me = self.host.get_id().to_base58()
        held = [lease.relay for lease in self.leases.values() if lease.held]
        return [circuit_to(me, relay) for relay in held]

    def relay_at(self, peer: PeerId) -> str | None:
        """Return where we reserved at ``peer``; None if it is no relay of ours."""
        places = (x.relay for x in self.leases.values() if x.peer == peer)
        return next(places, None)

    def hurry(self) -> None:
        """Look at all relays at once: the network has changed."""
        for lease in self.leases.values():
            lease.failures = 0
            lease.hurry.set()

    async def run(self) -> None:
        """Keep the reservations until cancelled; whatever relays do, never raise."""
        try:
            async with trio.open_nursery() as self._nursery:
                for lease in self.leases.values():
                    self._nursery.start_soon(self._keep, lease)
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for lease in self.leases.values():
                lease.held = False

    async def _keep(self, lease: Lease) -> None:
        """Reserve, wait until that is old or gone, and so on, while it is wanted."""
        with lease.scope:
            while True:
                await self._keep_once(lease)

    async def _keep_once(self, lease: Lease) -> None:
        try:
            life_s = await self._reserve(lease)
        except (PeerLostError, ProtocolError) as error:
            lease.failures += 1
            self._tell(lease, held=False, words=str(error))
            await self._pause(lease, self._patience_s(lease.failures))
        else:
            lease.failures = 0
            self._tell(lease, held=True, words="reserved")
            await self._watch(lease, life_s)

    def _tell(self, lease: Lease, *, held: bool, words: str) -> None:
        news = (held, words) != (lease.held, lease.words)
        lease.held, lease.words = held, words
        if news:
            log.info("relay %s: %s", lease.peer, words)
            self.changed()

    def _patience_s(self, failures: int) -> float:
        """Return 1 s, 2 s, 4 s ... 20 s, each up to a half shorter by chance."""
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 10))
        return wait_s * self.rng.uniform(0.5, 1.0)

    async def _pause(self, lease: Lease, wait_s: float) -> None:
        with trio.move_on_after(wait_s):
            await lease.hurry.wait()
        lease.hurry = trio.Event()

    async def _watch(self, lease: Lease, life_s: float) -> None:
        """Return when the reservation wants refreshing, or the relay is gone."""
        end_s = trio.current_time() + life_s
        while trio.current_time() < end_s and not lease.hurry.is_set():
            if not direct(self.host, lease.peer):
                self._tell(lease, held=False, words="the connection to it ended")
                break
            await self._pause_briefly(lease)
        lease.hurry = trio.Event()

    async def _pause_briefly(self, lease: Lease) -> None:
        with trio.move_on_after(LOOK_S):
            await lease.hurry.wait()

    async def _reserve(self, lease: Lease) -> float:
        """Reserve, and return after how many seconds to do so again."""
        if not direct(self.host, lease.peer):
            await self.reach(lease.relay)
        request = HopMessage(type=HopMessage.RESERVE)
        stream, reply = await asked(self.host, lease.peer, request)
        await let_go(stream)
        check(lease.peer, reply)
        return REFRESH_S * self.rng.uniform(0.8, 1.0)
