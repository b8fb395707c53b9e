"""What a relay serves: circuits of libp2p, a blind relay for data, whoami twice."""

import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from clients.peer.settings import Relay as RelaySettings
from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.libp2p.allowance import RelayLimits
from p2p.libp2p.config import Libp2pConfig, Part
from p2p.libp2p.parts import Reachable, Relaying
from p2p.libp2p.thread import MeshThread
from p2p.machine import Answer, Asked, Machine
from p2p.nat.addresses import Address, is_private
from p2p.nat.berths import SpliceDesk
from p2p.nat.candidates import Interface, interfaces
from p2p.nat.grants import Warden
from p2p.nat.ports import ANY4, ANY6
from p2p.nat.quota import Quota
from p2p.nat.relay import SpliceRelay
from p2p.nat.whoami import WhoamiService
from p2p.relaying import Desk

EYES = 2  # whoami services
LOOK_S = 5.0  # between two looks at where this machine is
GB = 10**9


@dataclass(frozen=True)
class RelayService:
    """A running relay.

    Attributes:
        part: circuits of libp2p; a part of the transport.
        splice: the blind relay.
        eyes: the whoami services.
        desk: gives leave to use the blind relay.
        services: tells where whoami listens.
        only: the addresses of this machine to use; all if empty.
        outside: the address at which the world reaches this machine, if it was set.
    """

    part: Relaying
    splice: SpliceRelay
    eyes: Sequence[WhoamiService]
    desk: SpliceDesk
    services: Desk
    only: Collection[str]
    outside: str

    @property
    def splice_port(self) -> int:
        """Where the blind relay listens."""
        return self.splice.address.port

    def look(self) -> bool:
        """Tell peers from now on where this machine is; return whether that is new.

        What is told may be private, if a router hides the rest: peers then take the
        address at which they have reached us (``p2p.nat.addresses.seen_from``).
        """
        version = 6 if ":" in self.splice.address.host else 4
        here = [i for i in interfaces(self.only) if i.version == version]
        hosts = [self.outside] if self.outside else relay_hosts(here)
        if not hosts:
            return False  # its network is gone, and may come back
        before = self.desk.addresses, self.services.services
        self.desk.addresses = (Address(hosts[0], self.splice_port),)
        pairs = zip((hosts * EYES)[:EYES], self.eyes, strict=True)
        places = tuple(Address(host, eye.address.port) for host, eye in pairs)
        self.services.services = places
        return before != (self.desk.addresses, places)


def serve_as_relay(
    settings: RelaySettings, only: Collection[str], stack: ExitStack
) -> RelayService:
    """Begin to relay, until ``stack`` is closed. Uses three ports, one after another.

    Args:
        settings: what to give at most.
        only: the addresses of this machine to use; all if empty.
        stack: ends what is begun here.

    Raises:
        ConfigError: this machine has no address that others can reach, or a port is
            in use.
    """
    hosts = relay_hosts(interfaces(only))
    if not hosts:
        raise ConfigError(
            "a relay needs an address of this machine; check listen.addresses"
        )
    if not only:  # those of the machine may change
        hosts = [ANY6 if ":" in hosts[0] else ANY4]
    quota = Quota(
        circuits=settings.circuits, circuit_bytes=int(settings.circuit_gb * GB)
    )
    warden = Warden(secrets.token_bytes(32))
    try:
        splice = SpliceRelay(warden, hosts[0], settings.port, quota, time.monotonic)
        stack.enter_context(splice)
        eyes = [
            stack.enter_context(
                WhoamiService(host, settings.port and settings.port + n)
            )
            for n, host in enumerate((hosts * EYES)[:EYES], 1)
        ]
    except OSError as error:
        raise ConfigError(
            f"the relay cannot listen on {hosts[0]}, port {settings.port}: "
            f"{error.strerror}; choose another port"
        ) from error
    service = RelayService(
        Relaying(RelayLimits(circuits=8 * settings.circuits), settings.address),
        splice,
        eyes,
        SpliceDesk(warden, (), time.monotonic),
        Desk(()),
        only,
        settings.address,
    )
    service.look()
    return service


def relay_hosts(here: Sequence[Interface]) -> list[str]:
    """Return where to serve others from, the best first, all of one kind.

    Public addresses if there are any; else the one that leads out of this machine,
    which is in the network that the others are likely to share, and not that of some
    containers. Of one family, so that what different services see can be compared.
    """
    public = [i for i in here if not (is_private(i.ip) or i.ip.is_loopback)]
    ways = [i for i in here if str(i.ip) == outward()]
    fit = sorted(public or ways or here, key=lambda i: i.version)
    hosts = [str(i.ip) for i in fit if i.version == fit[0].version]
    return hosts if public else hosts[:1]


def outward() -> str:
    """Return the address from which this machine speaks to others; or nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        host: str = probe.getsockname()[0]
        return host
    return ""


def run_relay(
    key: Key,
    listen: Sequence[str],
    port: int,
    settings: RelaySettings,
    say: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Relay for peers of any network until ``stop`` is set.

    Args:
        key: the relay's; its id is part of its address.
        listen: addresses of this machine; all if empty.
        port: for libp2p.
        settings: what to give at most.
        say: told where the relay is reached.
        stop: ends it.

    Raises:
        ConfigError: an address cannot be listened on.
    """
    hosts = listen or [str(i.ip) for i in interfaces()]
    places = [f"/ip{6 if ':' in h else 4}/{h}/tcp/{port}" for h in hosts]
    with ExitStack() as stack:
        service = serve_as_relay(settings, listen, stack)
        parts: list[Part] = [service.part, Reachable(random.SystemRandom())]
        mesh = stack.enter_context(MeshThread(Libp2pConfig(key, places, parts)))
        for desk in (service.desk, service.services):
            for topic in desk.topics:
                mesh.serve(topic, _answering(desk, topic))
        said: set[str] = set()
        while True:
            service.look()
            for line in _lines(mesh, service):
                if line not in said:
                    say(line)
                said.add(line)
            if stop.wait(LOOK_S):
                return


def _lines(mesh: MeshThread, service: RelayService) -> Sequence[str]:
    """Return what the owner should know: where peers reach us, and through which ports.

    Further addresses come when others have found them to lead here.
    """
    ports = [service.splice_port, *(eye.address.port for eye in service.eyes)]
    return [
        *(f"relay at {address}" for address in mesh.addresses()),
        f"relay for data at ports {', '.join(map(str, ports))}",
        "peers use it with: --set find.relays=ADDRESS",
    ]


def _answering(desk: Machine, topic: str) -> Callable[[PeerId, bytes], "Future[bytes]"]:
    """Return the answers of a machine that answers at once and keeps nothing."""

    def answer(peer: PeerId, body: bytes) -> "Future[bytes]":
        future: Future[bytes] = Future()
        try:
            effects = desk.step(time.monotonic(), Asked(peer, topic, body, 0))
        except ProtocolError as error:
            future.set_exception(error)
            return future
        future.set_result(next(e.body for e in effects if isinstance(e, Answer)))
        return future

    return answer
