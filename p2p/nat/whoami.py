"""A tiny service that tells a data port how the world sees it.

The answer is magic and an address, at once; the connection then stays open, silent,
so that the NATs on the way keep their mapping. A data port that asks two such
services learns what kind of NAT it is behind.
"""

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.wire import Reader
from p2p.nat.addresses import Address, encode_address, read_address
from p2p.nat.ports import (
    BACKLOG,
    SCARCE_S,
    address_of,
    bound,
    dropped,
    family_of,
    kept_alive,
    woken,
)

MAGIC = b"FCw1"
_SIZES = {4: 11, 16: 23}  # by the first byte of the address: bytes of an answer
MOST_SERVICES = 4


def encode_seen(address: Address) -> bytes:
    """Return the answer of a service."""
    return MAGIC + encode_address(address)


def read_seen(data: bytes) -> Address:
    """Return what a service answered.

    Raises:
        ProtocolError: these bytes are no answer.
    """
    reader = Reader(data)
    if reader.take(len(MAGIC)) != MAGIC:
        raise ProtocolError("not an answer of a whoami service")
    address = read_address(reader)
    if reader.left():
        raise ProtocolError(f"{reader.left()} stray bytes at the end")
    return address


@dataclass(frozen=True, slots=True)
class Sighting:
    """``service`` saw our data port as ``seen``, while it was ``local`` to us."""

    service: Address
    local: Address
    seen: Address


class WhoamiService:
    """Answers everybody, in one thread, with bounded memory.

    Args:
        host: where to listen.
        port: the port; 0 for any free one.
        most: connections kept open; above it the oldest is closed.
        most_of_host: connections kept open for one machine.
    """

    def __init__(
        self, host: str, port: int = 0, *, most: int = 1024, most_of_host: int = 32
    ) -> None:
        self.most, self.most_of_host = most, most_of_host
        family = family_of(Address(host, port))
        self._server = socket.create_server(
            (host, port), family=family, backlog=BACKLOG
        )
        self._server.setblocking(False)
        self.address = address_of(self._server.getsockname())
        self._open: dict[socket.socket, str] = {}
        self._of_host: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="whoami", daemon=True)

    def __enter__(self) -> "WhoamiService":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        woken(self._server)
        self._thread.join()
        for sock in [self._server, *self._open]:
            sock.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.2):
                if key.fileobj is self._server:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._close(key.fileobj)  # nothing is ever to be said to us

    def _accept(self) -> None:
        try:
            sock, place = self._server.accept()
        except BlockingIOError:
            return
        except OSError:  # gone again, or no descriptor is left: drop one of ours
            if self._open:
                self._close(next(iter(self._open)))
            self._stop.wait(SCARCE_S)
            return
        seen = address_of(place)
        if self._of_host[seen.host] >= self.most_of_host:
            sock.close()
            return
        if len(self._open) >= self.most:
            self._close(next(iter(self._open)))
        self._keep(sock, seen)

    def _keep(self, sock: socket.socket, seen: Address) -> None:
        sock.setblocking(False)
        try:
            kept_alive(sock, idle_s=60)
            sock.send(encode_seen(seen))  # an empty send buffer holds 23 bytes
        except OSError:
            sock.close()
            return
        self._open[sock] = seen.host
        self._of_host[seen.host] += 1
        self._selector.register(sock, selectors.EVENT_READ)

    def _close(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        host = self._open.pop(sock)
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]
        sock.close()


@dataclass
class Observer:
    """Asks whoami services from a data port, and keeps the mapping they saw.

    Attributes:
        port: our data port.
        timeout_s: longest wait for one service.
    """

    port: int
    timeout_s: float = 3.0
    _kept: dict[Address, tuple[socket.socket, Sighting]] = field(default_factory=dict)

    def look(self, services: Sequence[Address]) -> tuple[Sighting, ...]:
        """Return what the first few of ``services`` see; silent ones are left out.

        A service whose connection still lives is not asked again.
        """
        asked = list(dict.fromkeys(services))[:MOST_SERVICES]
        self._forget(s for s in list(self._kept) if s not in asked or self._dead(s))
        missing = [s for s in asked if s not in self._kept]
        with ThreadPoolExecutor(MOST_SERVICES, "whoami") as pool:
            for service, answer in zip(
                missing, pool.map(self._ask, missing), strict=True
            ):
                if answer is not None:
                    self._kept[service] = answer
        return tuple(self._kept[s][1] for s in asked if s in self._kept)

    def close(self) -> None:
        """Let go of all mappings; also right after a change of network."""
        self._forget(list(self._kept))

    def _forget(self, services: Iterable[Address]) -> None:
        for service in services:
            dropped(self._kept.pop(service)[0])

    def _dead(self, service: Address) -> bool:
        try:
            self._kept[service][0].recv(1)  # silence is life; else it hung up or lies
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _ask(self, service: Address) -> tuple[socket.socket, Sighting] | None:
        try:
            sock = bound(family_of(service), self.port)
        except OSError:
            return None
        with suppress(OSError, ProtocolError):
            sock.settimeout(self.timeout_s)
            sock.connect(service)
            seen = read_seen(_answer(sock, time.monotonic() + self.timeout_s))
            local = address_of(sock.getsockname())
            kept_alive(sock)
            sock.setblocking(False)
            return sock, Sighting(service, local, seen)
        dropped(sock)
        return None


def _answer(sock: socket.socket, until_s: float) -> bytes:
    """Return the bytes of one answer, however slowly they come before ``until_s``."""
    data = b""
    want = len(MAGIC) + 1
    while len(data) < want:
        sock.settimeout(max(0.001, until_s - time.monotonic()))
        part = sock.recv(want - len(data))
        data += part
        if not part:
            raise ProtocolError("the service hung up")
        if len(data) > len(MAGIC):
            want = _SIZES.get(data[len(MAGIC)], 0)
    return data
