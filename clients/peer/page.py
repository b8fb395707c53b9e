"""The node's web page, for its owner, on this machine: what it does, as pictures.

Three fixed files and two things to read, ``/api/status`` and ``/metrics``. To read,
one shows the token in ``Authorization: Bearer``; the page takes it from behind the
``#`` of its own address, which browsers never send. Nothing can be changed here.
Requests under another host's name are refused, so that no site can reach the page
through a browser.
"""

import hmac
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from clients.peer.metrics import as_prometheus
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, FedError

HOST = "127.0.0.1"
TOKEN = "token"  # noqa: S105 - the name of the file
TURN_S = 0.05  # between two looks at whether to end
QUIET_S = 10.0
MOST_THREADS = 16
ROOM_S = 1.0  # the longest wait for the oldest of them to end
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
log = logging.getLogger(__name__)
Source = Callable[[], Mapping[str, Any]]


class Page:
    """Serves the page until it is closed.

    Args:
        folder: the node's; the token is kept there.
        port: on 127.0.0.1; 0 takes any free one.
        status: what the node says of itself, with its newest notes.

    Raises:
        ConfigError: the port is in use.
    """

    def __init__(self, folder: Path, port: int, status: Source) -> None:
        self.token = token_in(folder)
        handler = partial(_Handler, self.token, status)
        try:
            self._server = _Server((HOST, port), handler)
        except OSError as error:
            raise ConfigError(
                f"the page cannot listen on port {port}: {error.strerror}; choose "
                "another with page.port, or none with page.serve=false"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=partial(self._server.serve_forever, TURN_S), name="page", daemon=True
        )

    @property
    def address(self) -> str:
        """What the owner opens in a browser."""
        return f"http://{HOST}:{self.port}/#{self.token}"

    def start(self) -> "Page":
        """Begin to serve."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Serve nobody any more."""
        self._server.shutdown()
        self._server.server_close()


def token_in(folder: Path) -> str:
    """Return the token kept in ``folder``, made at the first call."""
    disk = RealDisk(folder)
    if TOKEN not in disk.names():
        disk.replace(TOKEN, secrets.token_urlsafe(24).encode())
    return disk.read(TOKEN).decode().strip()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_THREADS

    def __init__(self, place: tuple[str, int], handler: Any) -> None:
        self._slots = threading.BoundedSemaphore(MOST_THREADS)
        self._open: dict[socket.socket, None] = {}  # the oldest first
        super().__init__(place, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it; if too many are open, the oldest makes room: it says too little."""
        if not self._slots.acquire(blocking=False):
            for oldest in list(self._open)[:1]:
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread ends
            if not self._slots.acquire(timeout=ROOM_S):
                self.shutdown_request(request)
                return
        self._open[request] = None
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing on the terminal: most are browsers that were closed."""
        log.info("a request of the page broke", exc_info=True)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = QUIET_S
    server_version = "fedcore"
    sys_version = ""

    def __init__(self, token: str, status: Source, *rest: Any) -> None:
        self._token, self._status = token, status
        super().__init__(*rest)

    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._say(421, "text/plain", b"this is not that host\n")
        elif self.path in STATIC:
            name, kind = STATIC[self.path]
            self._say(
                200, kind, files("clients.peer").joinpath("web", name).read_bytes()
            )
        elif self.path not in ("/api/status", "/metrics"):
            self._say(404, "text/plain", b"nothing is here\n")
        elif not self._is_owner():
            self._say(401, "text/plain", b"the token is missing or wrong\n")
        else:
            self._read()

    def _is_owner(self) -> bool:
        given = self.headers.get("Authorization", "")
        wanted = f"Bearer {self._token}"
        return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())

    def _read(self) -> None:
        try:
            status = self._status()
        except FedError as error:
            self._say(503, "text/plain", f"{error}\n".encode())
            return
        if self.path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            self._say(200, kind, as_prometheus(status).encode())
        else:
            self._say(200, "application/json", json.dumps(status).encode())

    def _say(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
