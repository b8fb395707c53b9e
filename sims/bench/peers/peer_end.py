"""A whole node of ours behind some router, started and asked by the bench.

    python -m sims.bench.peers.peer_end NAME ADDRESS

The node is that of ``fedcore peer up``, its folder in the directory this is started in.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from clients.peer import home as homes
from clients.peer.actions import Actions
from clients.peer.daemon import PeerNode
from clients.peer.settings import Find, Listen, Page, PeerSettings
from fedcore.errors import PeerLostError
from p2p.identity.invites import read_invite
from sims.bench.peers.answers import answer

HELD_S = 20.0  # longest wait for a relay
LOOK_S = 0.02


class End:
    """A node: others join it, or it joins others."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name, self.stack = name, stack

    def _settings(self, relays: Sequence[str]) -> PeerSettings:
        find = Find(relays=tuple(relays), nearby=False, map_ports=False)
        listen, page = Listen(control_port=4001, data_port=4002), Page(serve=False)
        return PeerSettings(name=self.name, listen=listen, find=find, page=page)

    def _up(self, home: homes.Home, settings: PeerSettings) -> PeerNode:
        node = PeerNode(home, settings, lambda _: None)
        return self.stack.enter_context(node)

    def keep(self, relays: Sequence[str]) -> str:
        """Found a network, be kept by a relay; return an invite."""
        settings = self._settings(relays)
        node = self._up(homes.make(Path(self.name), settings, "bench"), settings)
        until_s = time.monotonic() + HELD_S
        while not any("p2p-circuit" in a for a in node.mesh.addresses()):
            if time.monotonic() > until_s:
                raise PeerLostError("no relay keeps us")
            time.sleep(LOOK_S)
        asked = {"do": "invite", "role": "peer", "lasts_s": 3600.0}
        return str(Actions(node).do(asked, lambda _: None)["invite"])

    def meet(
        self, relays: Sequence[str], where: str, patience_s: float
    ) -> dict[str, float | str]:
        """Start, and join; return the seconds until a word was answered, and the way.

        Only words over a data channel count.
        """
        settings, invite = self._settings(relays), read_invite(where)
        home = homes.join(Path(self.name), settings, invite)
        began_s = time.perf_counter()
        node = self._up(home, settings)
        while not (lines := node.wires.lines()):
            if time.perf_counter() - began_s > patience_s:
                return {"way": "", "why": node.report.state()[1]}
            time.sleep(LOOK_S)
        [peer] = lines
        ping = {"do": "ping", "peer": peer, "count": 1}
        heard = Actions(node).do(ping, lambda _: None)
        took_s = time.perf_counter() - began_s
        way = str(heard["path"]) if heard["took_s"] else ""
        return {"way": way, "took_s": took_s, "why": heard["why"]}


if __name__ == "__main__":
    with ExitStack() as opened:
        end = End(sys.argv[1], opened)
        answer({do: getattr(end, do) for do in ("keep", "meet")})
