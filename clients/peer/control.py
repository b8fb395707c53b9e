"""How the commands speak with the running node: JSON lines on a Unix socket.

Only the owner's programs can open the socket: it lies in the node's private folder.
A request is one line ``{"do": name, ...}``; answers are lines ``{"progress": ...}``,
as many as there are, and one ``{"result": ...}`` or ``{"error": text}``.
"""

import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from fedcore.errors import ConfigError, FedError, PeerLostError, StorageError

log = logging.getLogger(__name__)
SOCKET = "control.sock"
NAME_BYTES = 100  # of a socket's path; some systems take 104, some 108
FOLDERS = Path("/proc/self/fd")  # on Linux: short names of the folders we have open
MOST_BYTES = 1 << 20  # of one request or answer
TURN_S = 0.05  # between two looks at whether to end
QUIET_S = 600.0  # a command that hears nothing for so long gives up
Json = Mapping[str, Any]
Say = Callable[[Json], None]  # tell the asker of progress
Act = Callable[[Json, Say], Json]


@contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Yield a name of ``path`` that fits into a socket address.

    Raises:
        ConfigError: it is too long, and this system has no ``/proc`` to shorten it.
    """
    if len(os.fsencode(path)) <= NAME_BYTES:
        yield str(path)
        return
    if not FOLDERS.is_dir():
        raise ConfigError(
            f"the path {path} is longer than the {NAME_BYTES} bytes that a socket may "
            "have here: choose a folder with a shorter path with --home"
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(FOLDERS / str(folder) / path.name)
    finally:
        os.close(folder)


class Control:
    """Answers commands in threads of its own until it is closed.

    Args:
        home: the node's folder.
        act: does what a request asks; may raise FedError.
    """

    def __init__(self, home: Path, act: Act) -> None:
        self.path = home / SOCKET
        self.path.unlink(missing_ok=True)
        with _short_name(self.path) as name:
            self._server = _Server(name, _Handler, act)
        self.path.chmod(0o600)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(TURN_S,),
            name="control",
            daemon=True,
        )

    def start(self) -> "Control":
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, name: str, handler: type["_Handler"], act: Act) -> None:
        super().__init__(name, handler)
        self.act = act


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast("_Server", self.server)
        with suppress(OSError):  # the asker has gone: its loss
            try:
                request = _object(self.rfile.readline(MOST_BYTES))
                self._say({"result": server.act(request, self._progress)})
            except FedError as error:
                again = isinstance(error, PeerLostError | StorageError)
                self._say({"error": str(error), "again": again})
            except Exception as error:  # the border: a command must not end the node
                log.exception("a command failed")
                self._say({"error": f"unexpected {type(error).__name__}: {error}"})

    def _progress(self, what: Json) -> None:
        self._say({"progress": what})

    def _say(self, what: Json) -> None:
        self.wfile.write(json.dumps(what).encode() + b"\n")
        self.wfile.flush()


def _object(line: bytes) -> Json:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"not a request: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("do"), str):
        raise ConfigError('not a request: write {"do": name, ...}')
    return found


def ask(home: Path, request: Json, say: Say | None = None) -> Json:
    """Return the running node's answer to ``request``.

    Args:
        home: the node's folder.
        request: ``{"do": name, ...}``.
        say: told of progress.

    Raises:
        PeerLostError: no node runs here, or asking again later may help.
        ConfigError: it cannot do it; says why.
    """
    try:
        with _connected(home / SOCKET) as file:
            file.write(json.dumps(request).encode() + b"\n")
            file.flush()
            while line := file.readline():
                answer = json.loads(line)
                if "progress" in answer and say is not None:
                    say(answer["progress"])
                elif "error" in answer:
                    kind = PeerLostError if answer.get("again") else ConfigError
                    raise kind(answer["error"])
                elif "result" in answer:
                    return cast("Json", answer["result"])
    except OSError as error:
        raise PeerLostError(
            f"no node runs in {home}; start one with `fedcore peer up`"
        ) from error
    raise PeerLostError(f"the node in {home} ended before it answered")


@contextmanager
def _connected(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise FileNotFoundError(path)
    with socket.socket(socket.AF_UNIX) as sock, _short_name(path) as name:
        sock.settimeout(QUIET_S)
        sock.connect(name)
        with sock.makefile("rwb") as file:
            yield file
