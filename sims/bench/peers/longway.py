"""A long way between two programs of one machine: a proxy that delays."""

import socket
import threading
import time
from collections import deque

ROUND_TRIP_S, WINDOW_BYTES = 0.06, 1 << 20


class LongWay:
    """A proxy that delays, and holds a connection to one window a round trip.

    Args:
        port: where it leads to, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            for pair in ((near, far), (far, near)):
                _Delayed(*pair).start()

    def close(self) -> None:
        """Cut everything."""
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for sock in self._sockets:
            sock.close()


class _Delayed:
    """One direction: what comes in goes out half a round trip later."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Begin to carry."""
        threading.Thread(target=self._take, daemon=True).start()
        threading.Thread(target=self._give, daemon=True).start()

    def _take(self) -> None:
        data = b"more"
        while data:
            try:
                data = self._source.recv(1 << 16)
            except OSError:
                data = b""
            with self._changed:
                due_s = time.monotonic() + ROUND_TRIP_S / 2
                self._under_way.append((due_s, data))
                self._bytes += len(data)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._bytes < WINDOW_BYTES // 2)

    def _give(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way)
                due_s, data = self._under_way.popleft()
            time.sleep(max(0.0, due_s - time.monotonic()))
            try:
                self._sink.sendall(data)
            except OSError:
                data = b""
            self._acknowledge(len(data))
            if not data:
                return

    def _acknowledge(self, count: int) -> None:
        """Make room for more.

        A real sender hears of it half a trip later, with twice the window.
        """
        with self._changed:
            self._bytes = self._bytes - count if count else 0
            self._changed.notify_all()
