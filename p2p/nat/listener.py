"""The open end of a data port: strangers cost a descriptor for a moment, no more.

A new connection must say a token that signalling announced, within ``patience_s``
and in its first bytes; until then nothing is computed, sent or kept for it. When too
many are silent the oldest makes room: who was announced speaks at once.
"""

import queue
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fedcore.errors import ConfigError, ProtocolError
from p2p.nat.hello import HELLO_BYTES, hello, read_hello
from p2p.nat.ports import ANY6, SCARCE_S, bound, dropped, listening, woken

_AT_ONCE = 64  # connections taken before others are looked after


@dataclass
class Arrivals:
    """Connections that said one token, as they come.

    Attributes:
        dialer: whether *we* are the dialler of this token.
        sockets: non-blocking sockets whose first bytes were right and answered.
        bell: readable whenever a socket was added.
    """

    dialer: bool
    most: int
    sockets: "queue.SimpleQueue[socket.socket]" = field(
        default_factory=queue.SimpleQueue
    )
    bell: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)

    def close(self) -> None:
        """Drop what was not taken."""
        with suppress(queue.Empty):
            while True:
                dropped(self.sockets.get_nowait())
        for end in self.bell:
            end.close()


@dataclass
class _HalfOpen:
    since_s: float
    said: bytes = b""


class Listener:
    """Listens on one data port, IPv4 and IPv6, in one thread. A context manager.

    Args:
        port: the data port; 0 for any free one.
        hosts: the only addresses of this machine to listen on; all if empty.
        most_half_open: silent connections kept at most.
        patience_s: how long a connection may take to say its first bytes.

    Raises:
        ConfigError: the port belongs to another program.
    """

    def __init__(
        self,
        port: int = 0,
        hosts: Sequence[str] = (),
        *,
        most_half_open: int = 256,
        patience_s: float = 3.0,
    ) -> None:
        self.most_half_open, self.patience_s = most_half_open, patience_s
        self._servers = _listening(port, hosts)
        self.port: int = self._servers[0].getsockname()[1]
        self.refused = 0  # connections that did not say a known token
        self._half_open: dict[socket.socket, _HalfOpen] = {}
        self._expected: dict[bytes, Arrivals] = {}
        self._lock = threading.Lock()  # guards _expected, and hand-over with close
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def __enter__(self) -> "Listener":
        for server in self._servers:
            self._selector.register(server, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for server in self._servers:
            woken(server)
        self._thread.join()
        for sock in [*self._servers, *self._half_open]:
            sock.close()
        self._selector.close()

    @property
    def half_open(self) -> int:
        """How many connections have not said their first bytes yet."""
        return len(self._half_open)

    def expect(self, token: bytes, *, dialer: bool, most: int = 8) -> Arrivals:
        """Take connections that say ``token`` from now on, at most ``most``.

        Raises:
            ProtocolError: ``token`` is expected already.
        """
        arrivals = Arrivals(dialer, most)
        with self._lock:
            if token not in self._expected:
                self._expected[token] = arrivals
                return arrivals
        arrivals.close()
        raise ProtocolError("a token that is in use")

    def forget(self, token: bytes) -> None:
        """Take no more connections that say ``token``; close those not taken."""
        with self._lock:
            arrivals = self._expected.pop(token, None)
            if arrivals is not None:
                arrivals.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.2):
                sock = key.fileobj
                if sock in self._servers and isinstance(sock, socket.socket):
                    self._accept(sock)
                elif isinstance(sock, socket.socket) and sock in self._half_open:
                    self._read(sock)
            self._drop_slow(time.monotonic() - self.patience_s)

    def _accept(self, server: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _place = server.accept()
            except BlockingIOError:
                return
            except OSError:  # gone again, or no descriptor is left
                self._make_room()
                self._stop.wait(SCARCE_S)
                return
            sock.setblocking(False)
            if len(self._half_open) >= self.most_half_open:
                self._make_room()
            self._half_open[sock] = _HalfOpen(time.monotonic())
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket) -> None:
        half = self._half_open[sock]
        try:
            part = sock.recv(HELLO_BYTES - len(half.said))  # never a byte too many
        except BlockingIOError:
            return
        except OSError:
            part = b""
        half.said += part
        if not part:
            self._drop(sock)
        elif len(half.said) == HELLO_BYTES:
            self._recognise(sock, half.said)

    def _recognise(self, sock: socket.socket, said: bytes) -> None:
        try:
            token, dialer = read_hello(said)
        except ProtocolError:
            self._drop(sock)
            return
        with self._lock:
            arrivals = self._expected.get(token)
            if arrivals is None or arrivals.dialer == dialer:
                self._drop(sock)
                return
            self._hand_over(sock, token, arrivals)

    def _hand_over(self, sock: socket.socket, token: bytes, arrivals: Arrivals) -> None:
        if arrivals.sockets.qsize() >= arrivals.most:
            self._drop(sock)
            return
        self._selector.unregister(sock)
        del self._half_open[sock]
        try:
            sock.send(hello(token, dialer=arrivals.dialer))  # fits an empty buffer
        except OSError:
            sock.close()
            return
        arrivals.sockets.put(sock)
        with suppress(OSError):
            arrivals.bell[1].send(b"!")

    def _drop_slow(self, before_s: float) -> None:
        while self._half_open:
            sock, half = next(iter(self._half_open.items()))
            if half.since_s > before_s:
                return
            self._drop(sock)

    def _make_room(self) -> None:
        """Drop the oldest that has not said its token."""
        oldest = next(iter(self._half_open), None)
        if oldest is not None:
            self._read(oldest)  # it may have said it just now
            if oldest in self._half_open:
                self._drop(oldest)

    def _drop(self, sock: socket.socket) -> None:
        self.refused += 1
        self._selector.unregister(sock)
        del self._half_open[sock]
        dropped(sock)


def _listening(port: int, hosts: Sequence[str]) -> list[socket.socket]:
    """Return a socket for each of ``hosts``, or else for each family, on one port."""
    servers: list[socket.socket] = []
    for host in hosts or ("", ANY6):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            # A shared bind would hide a rival.
            socket.create_server((host, port), family=family).close()
            servers.append(bound(family, port, host))
            listening(servers[-1])
        except OSError as error:
            if servers and not hosts:
                return servers  # this machine has no IPv6
            for server in servers:
                server.close()
            raise ConfigError(
                f"data port {port} cannot be used{f' on {host}' if hosts else ''}: "
                f"{error.strerror}; choose another"
            ) from error
        port = servers[0].getsockname()[1]
    return servers
