"""What the network around a node is like: how far peers are, and what router it has."""

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.peer.control import Json, Say
from clients.peer.deeds import peer_called, seen
from fedcore.errors import ConfigError, FedError
from p2p.machine import Ask
from p2p.members.pulse import TOPIC as PULSE
from p2p.nat.effects import Here
from p2p.nat.kinds import Nat, outlook

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

PING_S = 5.0
MOST_PINGS = 100
SEEMS_OPEN = (
    "open, it seems: this machine has a public address; nobody has confirmed yet that "
    "others get through to it"
)


@dataclass(frozen=True)
class Network:
    """What requests about the network ask of a running node.

    Attributes:
        node: the node.
    """

    node: "PeerNode"

    def ping(self, request: Json, say: Say) -> Json:
        """Ask a peer again and again, and say how long it took."""
        count, took_s, why = int(request["count"]), list[float](), ""
        if not 1 <= count <= MOST_PINGS:
            raise ConfigError(f"--count must be from 1 to {MOST_PINGS}")
        peer = peer_called(self.node, request["peer"])
        for number in range(count):
            began_s = time.perf_counter()
            ask = Ask(peer, PULSE, b"", number, PING_S)
            answer: Future[bytes] = self.node.wires.ask(ask)
            try:
                answer.result(PING_S)
                took_s.append(time.perf_counter() - began_s)
            except (FedError, TimeoutError) as error:
                why = str(error) or "no answer in time"
        path = seen(self.node, lambda _: self.node.member.reach.words.get(peer, "?"))
        return {"peer": peer, "took_s": took_s, "path": path, "why": why}

    def netcheck(self, request: Json, say: Say) -> Json:
        """Say what kind of router we are behind."""
        node = self.node
        here: Here | None = seen(node, lambda _: node.member.reach.paths.here)
        found = [f"{c.kind:<9} {c.address}" for c in here.candidates] if here else []
        lines = [f"router    {router_words(here)}", *found]
        lines.append(f"reachable {node.reachable.words}")
        if node.mapped is not None:
            lines.append(f"mapping   {node.mapped.words}")
        lines += [f"relay     {r.relay}: {r.words}" for r in node.relayed.states()]
        if not node.relayed.states():
            lines.append("relay     none is set; see find.relays in peer.toml")
        return {"lines": lines, "nat": here.nat.name.lower() if here else "unknown"}


def router_words(here: Here | None) -> str:
    """Return what is known of the router, in words."""
    if here is None:
        return "not known yet"
    if not here.candidates:
        return "no network: this machine has no address that others could dial"
    public = any(candidate.kind == "public" for candidate in here.candidates)
    if here.nat is Nat.UNKNOWN and public:
        return SEEMS_OPEN
    return outlook(here.nat)
