"""Finds peers of the same network on the LAN, by multicast DNS (DNS-SD).

Everybody on the LAN can read what is announced: that here is a peer with this id at
these addresses, of *a* network. Which one, only those can tell who know its id, for
the name of the service is a hash of it. Anybody can announce anything as well, so what
is found is only a candidate to dial; the handshake proves who is there.

``zeroconf`` is used directly, because the library's own mDNS announces wildcards, one
port and no addresses, and looks every answer up in the thread that hears them.
"""

import hashlib
import ipaddress
import logging
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import zeroconf

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.members.places import Place, Reach, read_place

MAX_WAITING = 64  # announcements that were heard and not read yet
MAX_ADDRESSES = 8  # of one announcement
LOOKUP_MS = 500
PACE_S = 0.05  # between two candidates, however many are announced
LOOK_S = 30.0  # how often our own addresses are compared with the announced ones
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 120.0
_KEY = "a"  # of an address in the announcement: a0, a1 ... a7
log = logging.getLogger(__name__)

Found = Callable[[PeerId, Sequence[str]], None]


def service_of(network: str) -> str:
    """Return the DNS-SD type that stands for a network and does not tell its name."""
    digest = hashlib.sha256(b"fedcore/nearby/1\0" + network.encode()).hexdigest()
    return f"_fc{digest[:12]}._tcp.local."


def announced(addresses: Iterable[str]) -> list[Place]:
    """Return those of ``addresses`` that make sense on a LAN, at most 8, nearest first.

    Circuits can be dialled from anywhere and need no LAN; this machine's own are of
    use only where there are no others.
    """
    places = []
    for address in addresses:
        with suppress(ProtocolError):
            places.append(read_place(address))
    here = [p for p in places if p.reach is Reach.HERE]
    near = [p for p in places if p.reach in (Reach.LAN, Reach.PUBLIC)]
    return sorted(near or here, key=lambda p: (p.reach, p.text))[:MAX_ADDRESSES]


def read_announcement(
    properties: dict[bytes, bytes | None],
) -> tuple[PeerId, list[str]] | None:
    """Return whom an announcement speaks of, and where; None if it says nothing.

    Raises:
        ProtocolError: it is not as ours are.
    """
    places = []
    for index in range(MAX_ADDRESSES):
        raw = properties.get(f"{_KEY}{index}".encode())
        if raw:
            places.append(read_place(raw.decode("ascii", "replace")))
    peers = {place.peer for place in places}
    if not places:
        return None
    peer = peers.pop()
    if peers or peer is None or any(p.reach is Reach.RELAYED for p in places):
        raise ProtocolError("an announcement of several peers, or of none")
    return peer, [place.text for place in places]


class Nearby:
    """Announces ``me`` and finds others, in threads of its own, until it is closed.

    Without a usable network it waits for one; nothing that is heard ends it.
    """

    def __init__(
        self,
        network: str,
        me: PeerId,
        addresses: Callable[[], Sequence[str]],
        found: Found,
        rng: random.Random,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            network: id of the network.
            me: our peer id.
            addresses: returns where we can be dialled now; may be called from any
                thread.
            found: called with each candidate, in a thread of ours; must not block.
            rng: spreads retries, and chooses what is dropped in a flood.
            interfaces: our IP addresses on the LANs to use; None = all.
        """
        self.service, self.me = service_of(network), me
        self.addresses, self.found, self.rng = addresses, found, rng
        self.interfaces = interfaces
        self.words = "not started"
        self.dropped = 0
        self._name = f"{secrets.token_hex(8)}.{self.service}"
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._ready, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="nearby", daemon=True)

    def start(self) -> None:
        """Begin to announce and to listen."""
        self._thread.start()

    def hurry(self) -> None:
        """Look at our own addresses now: the network has changed."""
        self._ready.set()

    def close(self) -> None:
        """Say goodbye and stop; takes at most five seconds."""
        self._end.set()
        self._ready.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        failures = 0
        while not self._end.is_set():
            try:
                with zeroconf.Zeroconf(self._interfaces()) as multicast:
                    failures = 0
                    self._serve(multicast)
            except (OSError, RuntimeError, zeroconf.Error) as error:
                failures += 1
                self.words = f"cannot use multicast: {error}"
                log.info("nearby: %s", self.words)
                self._ready.wait(self._patience_s(failures))
                self._ready.clear()
        self.words = "closed"

    def _interfaces(self) -> list[str] | zeroconf.InterfaceChoice:
        if self.interfaces is None:
            return zeroconf.InterfaceChoice.All
        return list(self.interfaces)

    def _patience_s(self, failures: int) -> float:
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 10))
        return wait_s * self.rng.uniform(0.5, 1.0)

    def _serve(self, multicast: zeroconf.Zeroconf) -> None:
        """Announce, and read what is heard, until we are closed or have moved."""
        ours = announced(self.addresses())
        if ours:
            multicast.register_service(self._info(ours), strict=False)
        browser = zeroconf.ServiceBrowser(multicast, self.service, [self._heard])
        self.words = f"announcing {len(ours)} addresses"
        try:
            while not self._end.is_set() and announced(self.addresses()) == ours:
                self._ready.wait(LOOK_S)
                self._ready.clear()
                self._read_all(multicast)
        finally:
            browser.cancel()

    def _info(self, places: Sequence[Place]) -> zeroconf.ServiceInfo:
        return zeroconf.ServiceInfo(
            self.service,
            self._name,
            port=places[0].port,
            addresses=[ipaddress.ip_address(p.host).packed for p in places],
            properties={f"{_KEY}{i}": place.text for i, place in enumerate(places)},
            server=f"{self._name.partition('.')[0]}.local.",
        )

    def _heard(
        self,
        zeroconf: zeroconf.Zeroconf,
        service_type: str,
        name: str,
        state_change: zeroconf.ServiceStateChange,
    ) -> None:
        """Note ``name`` to be read; called by the library, by these argument names."""
        if state_change.name == "Removed" or name == self._name:
            return
        with self._lock:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(name)
            else:  # anybody has the same chance to be read, however many flood us
                self.dropped += 1
                self._waiting[self.rng.randrange(MAX_WAITING)] = name
        self._ready.set()

    def _read_all(self, multicast: zeroconf.Zeroconf) -> None:
        while not self._end.is_set():
            with self._lock:
                if not self._waiting:
                    return
                name = self._waiting.pop(0)
            self._read(multicast, name)
            self._end.wait(PACE_S)

    def _read(self, multicast: zeroconf.Zeroconf, name: str) -> None:
        """Look ``name`` up, and report the peer it speaks of."""
        try:
            info = multicast.get_service_info(self.service, name, LOOKUP_MS)
            spoken = read_announcement(info.properties) if info else None
        except (zeroconf.Error, ValueError, ProtocolError) as error:
            log.debug("nearby: ignored an announcement: %s", error)
            return
        if spoken is not None and spoken[0] != self.me:
            self.found(*spoken)
