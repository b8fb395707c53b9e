"""Can the world dial us? Ask peers to try: libp2p's AutoNAT, version 1.

``Reachability`` asks, and says what is known and who said so; ``dialback`` answers. An
answer is a hint: a server may lie, and a NAT may let in an address it has just seen.

Source: https://github.com/libp2p/specs/blob/master/autonat/autonat-v1.md
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import trio
from libp2p.abc import INetStream
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId, shown
from p2p.circuit import is_circuit
from p2p.libp2p.dialback import AUTONAT, MAX_ADDRESSES, place_of
from p2p.libp2p.heartbeat import WITNESSES
from p2p.libp2p.hops import heard, let_go, listening, said
from p2p.members.places import Reach, read_place

ANSWER_S = 20.0
SERVERS = 3  # asked in one round
OLD_S = 3600.0
SETTLE_S = 2.0  # after somebody came, or the network changed
ROUND_S, ROUND_UNKNOWN_S = 900.0, 60.0
Kind = Literal["public", "private", "unknown"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one server said.

    Attributes:
        server: who.
        reached: whether it could dial us.
        address: where it could; empty if it could not.
        at_s: when, on trio's clock.
    """

    server: PeerId
    reached: bool
    address: str
    at_s: float


class Reachability:
    """Whether others can dial us, as far as servers tell. Lives in the trio thread."""

    def __init__(
        self,
        host: BasicHost,
        servers: Callable[[], Sequence[PeerId]],
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
        nearest: Reach = Reach.PUBLIC,
    ) -> None:
        """Prepare; nothing is asked before ``run``.

        Args:
            host: who asks; its addresses are the ones in question.
            servers: peers that may be asked now.
            rng: chooses among them.
            changed: called whenever ``kind`` or ``words`` changed.
            nearest: servers nearer to us than this do not count: that a peer on our
                LAN reaches us says nothing of the world.
        """
        self.host, self.servers, self.rng = host, servers, rng
        self.changed, self.nearest = changed, nearest
        self.verdicts: dict[PeerId, Verdict] = {}
        self._own = listening(host)
        self._hurry, self._busy = trio.Event(), False

    def kind(self) -> Kind:
        """Return what most of the last hour's answers say; "unknown" in a draw."""
        says = [1 if v.reached else -1 for v in self.fresh()]
        return "public" if sum(says) > 0 else "private" if sum(says) < 0 else "unknown"

    def fresh(self) -> list[Verdict]:
        """Return the answers of the last hour, one for each server that gave one."""
        now_s = trio.current_time()
        return [v for v in self.verdicts.values() if now_s - v.at_s < OLD_S]

    def outside(self) -> list[str]:
        """Return where two servers or more reached us that is no address of ours.

        Such is the public address of a machine in a cloud, or of a router that passes
        a port on. Servers choose the IP address, so two of them must name the same.
        """
        places = [read_place(v.address) for v in self.fresh() if v.reached]
        ports = {port for _, port in self._own}
        found = Counter(
            (p.host, p.port)
            for p in places
            if p.port in ports and p.reach is Reach.PUBLIC and p.peer is None
        )
        fit = [at for at, n in found.items() if n >= WITNESSES and at not in self._own]
        return [f"/ip{6 if ':' in h else 4}/{h}/tcp/{port}" for h, port in sorted(fit)]

    def words(self) -> str:
        """Return who said what."""
        said_so = [
            f"{v.server} {f'reached us at {v.address}' if v.reached else 'could not'}"
            for v in self.fresh()
        ]
        return "; ".join(said_so) or "no peer outside has tried to dial us"

    def hurry(self) -> None:
        """Ask again now: the network has changed."""
        self.verdicts.clear()
        self._hurry.set()

    def met(self) -> None:
        """Ask soon if little is known yet: there is a peer that may be asked.

        When all are gone who have told us, we may have got another address.
        """
        if self.verdicts and self.verdicts.keys().isdisjoint(self.servers()):
            self.verdicts.clear()
        told = len(self.fresh())
        if (told < WITNESSES or self.kind() == "unknown") and not self._busy:
            self._hurry.set()

    async def run(self) -> None:
        """Ask again and again until cancelled; whatever servers do, never raise."""
        while True:
            before = self.kind(), self.words()
            self._busy = True
            await self.ask_some()
            self._busy = False
            if before != (self.kind(), self.words()):
                log.info("reachability: %s: %s", self.kind(), self.words())
                self.changed()
            wait_s = ROUND_UNKNOWN_S if self.kind() == "unknown" else ROUND_S
            with trio.move_on_after(wait_s * self.rng.uniform(0.8, 1.0)):
                await self._hurry.wait()
            await trio.sleep(SETTLE_S)
            self._hurry = trio.Event()

    async def ask_some(self) -> None:
        """Ask up to three servers, one by one, those first who have not told yet."""
        able = [server for server in self.servers() if self._counts(server)]
        told = {verdict.server for verdict in self.fresh()}
        able = [server for server in able if server not in told] or able
        chosen = self.rng.sample(able, min(SERVERS, len(able)))
        for server in chosen:
            try:
                verdict = await self._asked(server)
            except (PeerLostError, ProtocolError) as error:
                log.debug("reachability: %s", error)
                continue
            self.verdicts.pop(server, None)
            self.verdicts[server] = verdict
            while len(self.verdicts) > 4 * SERVERS:
                del self.verdicts[next(iter(self.verdicts))]

    def _counts(self, server: PeerId) -> bool:
        """Return whether ``server`` is so far away that its answer means something."""
        network = self.host.get_network()
        for connection in network.get_connections(ID.from_base58(server)):
            for address in connection.muxed_conn.get_transport_addresses():
                place = place_of(address.to_bytes())
                if place and self.nearest <= place.reach < Reach.RELAYED:
                    return True
        return False

    async def _asked(self, server: PeerId) -> Verdict:
        """Return what ``server`` says.

        Raises:
            PeerLostError: it did not answer, or cannot tell.
            ProtocolError: it answers nonsense.
        """
        question = Message(type=Message.DIAL)
        question.dial.peer.id = self.host.get_id().to_bytes()
        own = [a for a in self.host.get_addrs() if not is_circuit(str(a))]
        question.dial.peer.addrs.extend(a.to_bytes() for a in own[:MAX_ADDRESSES])
        answer = await self._exchanged(server, question)
        if answer.type != Message.DIAL_RESPONSE:
            raise ProtocolError(f"{server} answered a question with a question")
        reply = answer.dialResponse
        if reply.status not in (Message.OK, Message.E_DIAL_ERROR):
            raise PeerLostError(f"{server} cannot tell: {shown(reply.statusText)}")
        reached, place = reply.status == Message.OK, place_of(reply.addr)
        if reached and place is None:
            raise ProtocolError(f"{server} does not say where it reached us")
        where = place.text if reached and place else ""
        return Verdict(server, reached, where, trio.current_time())

    async def _exchanged(self, server: PeerId, question: Message) -> Message:
        stream: INetStream | None = None
        try:
            with trio.fail_after(ANSWER_S):
                stream = await self.host.new_stream(ID.from_base58(server), [AUTONAT])
                await said(stream, question)
                return await heard(stream, Message, ANSWER_S)
        except Exception as error:
            why = shown(str(error) or type(error).__name__)
            raise PeerLostError(f"{server} did not answer: {why}") from error
        finally:
            if stream is not None:
                await let_go(stream)
