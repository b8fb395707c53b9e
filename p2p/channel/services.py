"""What a peer lets others reach: TCP services by name, and where they are."""

import ipaddress
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.pipe import Do, Message, check_name

LOOK_UPS = 8  # at a time


@dataclass(frozen=True, slots=True)
class Spot:
    """Where to connect: a family of addresses, and an address as sockets take it."""

    family: int
    place: Any


Then = Callable[[Spot | None], object]  # told where it is, or that nobody knows


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        host: an address, or a name that is looked up for each connection.
        port: of TCP.
        allow: whether a peer may reach it.
    """

    host: str
    port: int
    allow: Callable[[PeerId], bool]


@dataclass(frozen=True, slots=True)
class Forward:
    """A local port that leads to a service of ``peer``."""

    peer: PeerId
    name: str
    host: str
    port: int


class Services:
    """The services of one peer. Every method may be called from any thread.

    Args:
        names: looks names up, as ``socket.getaddrinfo`` does.
    """

    def __init__(self, names: Callable[..., Any] = socket.getaddrinfo) -> None:
        self.names = names
        self._by_name: dict[str, Service] = {}
        self._slots = threading.BoundedSemaphore(LOOK_UPS)

    def put(self, name: str, service: Service) -> None:
        """Let ``service`` be reached as ``name``.

        Raises:
            ConfigError: the name or the port cannot be.
        """
        check_service(name, service.port, lowest=1)
        self._by_name[name] = service

    def hide(self, name: str) -> None:
        """Refuse new connections to the service ``name``."""
        self._by_name.pop(name, None)

    def of(self, name: str, peer: PeerId) -> Service:
        """Return the service ``name``, if ``peer`` may reach it.

        Raises:
            ProtocolError: there is none for it.
        """
        service = self._by_name.get(name)
        if service is None or not service.allow(peer):
            raise ProtocolError(f"no service {name!r} for you here")
        return service

    def look_up(self, service: Service, then: Then) -> None:
        """Find out where ``service`` is; a name is looked up in another thread.

        Raises:
            ProtocolError: too many names are being looked up.
        """
        try:
            version = ipaddress.ip_address(service.host).version
        except ValueError:
            self._look_up_name(service, then)
            return
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        then(Spot(family, (service.host, service.port)))

    def _look_up_name(self, service: Service, then: Then) -> None:
        if not self._slots.acquire(blocking=False):
            raise ProtocolError("too many names are being looked up; try again")
        work = partial(self._looked_up, service, then)
        threading.Thread(target=work, name="look up", daemon=True).start()

    def _looked_up(self, service: Service, then: Then) -> None:
        try:
            kind = socket.SOCK_STREAM
            found = self.names(service.host, service.port, type=kind)
        except (OSError, UnicodeError):
            then(None)
            return
        finally:
            self._slots.release()
        then(Spot(found[0][0], found[0][4]) if found else None)


def connecting(spot: Spot | None) -> socket.socket:
    """Return a socket that does not block, on its way to ``spot``.

    Raises:
        ProtocolError: nobody knows where that is, or no socket can be had.
    """
    if spot is None:
        raise ProtocolError("nobody knows where the service is")
    try:
        sock = socket.socket(spot.family)
    except OSError as error:  # such as too many open files
        raise ProtocolError(f"no connection can be made: {error}") from error
    sock.setblocking(False)
    with suppress(BlockingIOError, OSError):  # what is wrong shows when it is ready
        sock.connect(spot.place)
    return sock


def tried(ask: Callable[[bytes], "Future[bytes]"], name: str) -> "Future[bytes]":
    """Open a connection to a service of a peer, and end it at once.

    Args:
        ask: asks the peer, on the topic of tunnels.
        name: of the service.

    Returns:
        Fails with ProtocolError if there is no such service, or it is down; with
        PeerLostError if the peer is not here.
    """
    number = secrets.randbits(48)
    opened = ask(Message(Do.OPEN, True, number, 0, name.encode()).encoded())
    ending = Message(Do.RESET, True, number).encoded()
    opened.add_done_callback(lambda _: ask(ending))
    return opened


def check_service(name: str, port: int, lowest: int = 0) -> None:
    """Raise ConfigError unless a service may be called ``name``, on ``port``."""
    try:
        check_name(name.encode("utf-8", "surrogateescape"))
    except ProtocolError as error:
        raise ConfigError(f"{error}: {name!r:.80}") from error
    if not lowest <= port < 1 << 16:
        raise ConfigError(f"port {port}; give 1 to 65535")
