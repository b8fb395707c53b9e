"""Keeps a port of the router open, for as long as a program runs.

Every failure is only a note: a router that maps ports is a convenience, and most
networks have none.
"""

import logging
import random
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fedcore.errors import PeerLostError, ProtocolError
from p2p.mapping.natpmp import NatPmp
from p2p.mapping.upnp import Upnp
from p2p.mapping.way import Mapping, Way

LIFE_S = 3600  # of a mapping; it is renewed at half of it
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
SETTLE_S = 5.0  # a program that ends waits no longer for its router
_ROUTES = Path("/proc/net/route")
log = logging.getLogger(__name__)


class MappedPort:
    """Keeps TCP ``port`` mapped with the first way that works, in its own thread."""

    def __init__(
        self,
        port: int,
        ways: Sequence[Way],
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
        life_s: int = LIFE_S,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            port: our TCP port.
            ways: tried in this order; see ``ways_here``.
            rng: spreads retries and renewals.
            changed: called in the thread after ``mapping`` or ``words`` changed.
            life_s: how long each mapping is asked for, in seconds.
        """
        self.port, self.ways, self.rng = port, ways, rng
        self.changed, self.life_s = changed, life_s
        self.mapping: Mapping | None = None
        self.words = "not asked yet"
        self._way: Way | None = None
        self._hurry, self._over = threading.Event(), False
        self._thread = threading.Thread(
            target=self._run, name=f"mapped port {port}", daemon=True
        )

    def start(self) -> None:
        """Begin to ask, and go on asking."""
        self._thread.start()

    def hurry(self) -> None:
        """Ask now: the network has changed."""
        self._hurry.set()

    def close(self) -> None:
        """Give the port back, and stop; takes at most five seconds."""
        self._over = True
        self._hurry.set()
        if self._thread.is_alive():
            self._thread.join(SETTLE_S)

    def _run(self) -> None:
        failures = 0
        while not self._over:
            failures = 0 if self._ask() else failures + 1
            self._hurry.wait(self._pause_s(failures))
            self._hurry.clear()
        self._give_back()

    def _pause_s(self, failures: int) -> float:
        """Return half a mapping's life, or 1, 2, 4 ... 60 minutes; less by chance."""
        if self.mapping is not None:
            life_s = self.mapping.life_s or self.life_s
            return max(1.0, 0.5 * life_s * self.rng.uniform(0.8, 1.0))
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 10))
        return wait_s * self.rng.uniform(0.5, 1.0)

    def _ask(self) -> bool:
        """Map or renew with the way that worked, else with the first that does."""
        faults = []
        wanted = self.mapping.port if self.mapping else self.port
        for way in sorted(self.ways, key=lambda w: w is not self._way):
            if self._over:
                return False
            try:
                mapping = way.open(self.port, self.life_s, wanted)
            except (PeerLostError, ProtocolError) as error:
                faults.append(f"{way.name}: {error}")
            else:
                self._tell(mapping, way, _described(mapping, way))
                return True
        self._tell(None, None, "; ".join(faults) or "there is no router to ask")
        return False

    def _tell(self, mapping: Mapping | None, way: Way | None, words: str) -> None:
        news = (mapping, words) != (self.mapping, self.words)
        self.mapping, self._way, self.words = mapping, way, words
        if news:
            log.info("port %d: %s", self.port, words)
            self.changed()

    def _give_back(self) -> None:
        if self.mapping is not None and self._way is not None:
            with suppress(PeerLostError, ProtocolError):
                self._way.close(self.mapping)
            self._tell(None, None, "given back")


def _described(mapping: Mapping, way: Way) -> str:
    where = f"{mapping.host}:{mapping.port} leads here ({way.name})"
    return where if mapping.is_public else f"{where}, but it is behind another NAT"


def ways_here() -> list[Way]:
    """Return the ways to ask the router of this machine's way out; none if it has none.

    Sends nothing.
    """
    inner_host = _own_host()
    if inner_host is None:
        return []
    gateway = default_gateway(_ROUTES) or inner_host.rpartition(".")[0] + ".1"
    return [NatPmp(gateway), Upnp(inner_host)]


def _own_host() -> str | None:
    """Return our IPv4 address on the way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # a datagram socket: nothing is sent
        except OSError:
            return None
        return str(sock.getsockname()[0])


def default_gateway(routes: Path) -> str | None:
    """Return the router in the kernel's table ``routes``; None where there is none.

    Only Linux has the table; elsewhere the first address of the network is a good
    guess, for that is where home routers are.
    """
    with suppress(OSError, ValueError):
        for line in routes.read_text("ascii").splitlines()[1:]:
            _, target, gateway, flags, *_ = line.split()
            if target == "00000000" and int(flags, 16) & 2:
                return socket.inet_ntoa(struct.pack("<I", int(gateway, 16)))
    return None
