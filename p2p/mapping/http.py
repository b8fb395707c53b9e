"""A few bytes of HTTP with a device that may say anything: bounded in size and time."""

import http.client
import io
import re
import socket
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import shown

MAX_BYTES = 1 << 17
ANSWER_S = 3.0
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r|\Z)")


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


def asked(url: str, body: bytes = b"", headers: tuple[str, ...] = ()) -> Answer:
    """Send ``body`` to ``url`` with POST, or GET ``url`` when there is none.

    The whole takes at most 3 seconds and 128 KiB; redirects are not followed.

    Raises:
        PeerLostError: nobody answers in time.
        ProtocolError: the answer is not HTTP, or too long.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"{'POST' if body else 'GET'} {path or '/'} HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    try:
        return _parsed(_talk(host, port, head + body))
    except OSError as error:
        raise PeerLostError(f"{host} does not answer: {error}") from error


def _talk(host: str, port: int, request: bytes) -> bytes:
    """Return all that comes back until it is whole, or the other side closes."""
    end_s = time.monotonic() + ANSWER_S
    data = b""
    with socket.create_connection((host, port), ANSWER_S) as sock:
        sock.sendall(request)
        while not _is_whole(data):
            sock.settimeout(max(0.001, end_s - time.monotonic()))
            part = sock.recv(1 << 16)
            if not part:
                break
            data += part
            if len(data) > MAX_BYTES:
                raise ProtocolError(f"{host} answered with more than {MAX_BYTES} bytes")
    return data


def _is_whole(data: bytes) -> bool:
    """Return whether ``data`` has as many bytes as its head says."""
    head, found, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(found and length) and len(body) >= int(length[1] if length else 0)


def _parsed(data: bytes) -> Answer:
    response = http.client.HTTPResponse(_Read(data))  # type: ignore[arg-type]
    try:
        response.begin()
        return Answer(response.status, response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise ProtocolError(f"not HTTP: {shown(str(error))}") from error


class _Read:
    """As much of a socket as ``http.client`` asks for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)
