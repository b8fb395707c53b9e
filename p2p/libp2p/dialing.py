"""Dials a peer at all its addresses: staggered, the first that works wins.

The library itself would dial only the first TCP address of a peer, wait a quarter of
a second even after a success, and refuse to try again for a minute after a failure.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fedcore.errors import FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId, shown
from p2p.circuit import is_circuit
from p2p.identity.keys import public_of
from p2p.libp2p.faults import said, translated
from p2p.libp2p.host import peer_id
from p2p.libp2p.links import place_of

MAX_ADDRESSES = 32  # of one attempt
MAX_ADDRESS_CHARS = 512


@dataclass(frozen=True, slots=True)
class Target:
    """A peer at an address."""

    peer: PeerId
    address: Multiaddr  # with /p2p/<peer> at its end


Dialer = Callable[[Target], Awaitable[bool]]
"""Connects and returns True; returns False at once if such addresses are not its own.

It raises anything when it fails.
"""


def direct_dialer(swarm: Swarm) -> Dialer:
    """Return the dialer for the addresses that ``swarm`` can reach by itself."""

    async def dial(target: Target) -> bool:
        if is_circuit(str(target.address)):
            return False
        connection = await swarm.dial_addr(target.address, peer_id(target.peer))
        if isinstance(connection, SwarmConn) and not place_of(connection):
            place = str(target.address).rpartition("/p2p/")[0]
            connection.set_transport_info([Multiaddr(place)], ConnectionType.DIRECT)
        return True

    return dial


def target_of(text: str) -> Target:
    """Return the peer and the address in a multiaddr that ends in /p2p/<peer>.

    Raises:
        ProtocolError: it is no such address.
    """
    address, _, peer = text.rpartition("/p2p/")
    if len(text) > MAX_ADDRESS_CHARS or not address:
        raise ProtocolError(f"{shown(text)} is not an address that ends in /p2p/<peer>")
    public_of(peer)
    try:
        return Target(peer, Multiaddr(text))
    except (MultiaddrError, ValueError) as error:
        raise ProtocolError(f"{shown(text)}: {said(error)}") from None


@dataclass
class Race:
    """One attempt at many addresses.

    Attributes:
        dialers: asked in turn for each address.
        stagger_s: head start of each address over the next, in seconds.
        dial_s: longest attempt at one address, in seconds.
    """

    dialers: Sequence[Dialer]
    stagger_s: float
    dial_s: float

    async def run(
        self, targets: Sequence[Target], failures: list[str]
    ) -> Target | None:
        """Return the first of ``targets`` that was reached, or None.

        Args:
            targets: whom to dial where, the best first.
            failures: gets a sentence for each address that failed.
        """
        won: list[Target] = []
        async with trio.open_nursery() as nursery:

            async def attempt(target: Target, lost: trio.Event) -> None:
                why = await self._dial(target)
                if why is None:
                    won.append(target)
                    nursery.cancel_scope.cancel()
                else:
                    failures.append(f"{target.address}: {why}")
                lost.set()

            for target in targets[:MAX_ADDRESSES]:
                lost = trio.Event()
                nursery.start_soon(attempt, target, lost)
                with trio.move_on_after(self.stagger_s):
                    await lost.wait()
        return won[0] if won else None

    async def _dial(self, target: Target) -> str | None:
        """Return why ``target`` cannot be reached; None if it was."""
        with trio.move_on_after(self.dial_s):
            for dial in self.dialers:
                try:
                    with translated(target.peer, "dialling"):
                        if await dial(target):
                            return None
                except FedError as error:
                    return said(error.__cause__ or error)
            return "nothing here can dial such an address"
        return f"no answer within {self.dial_s:g} s"


def unreached(failures: Sequence[str]) -> PeerLostError:
    """Return the error that says what was tried."""
    tried = "; ".join(failures) or "no address was given"
    return PeerLostError(f"nobody could be reached: {tried}")
