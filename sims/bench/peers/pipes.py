"""The far end of ways to move bytes between two peers, in a process of its own.

    python -m sims.bench.peers.pipes WAY

``WAY`` is ``channel``, ``tls`` (a blocking socket of Python's ``ssl``, with the same
certificates) or ``libp2p``. Prints where it can be reached. Then it gives as many bytes
as it is asked for, echoes what is short, and answers each line that it reads with the
CPU time, in seconds, that it has used.
"""

import socket
import ssl
import struct
import sys
from concurrent.futures import Future
from resource import RUSAGE_SELF, getrusage
from threading import Thread
from typing import TYPE_CHECKING

from p2p.channel.caps import Caps
from p2p.channel.certificates import Credentials
from p2p.channel.channel import Channel, channel
from p2p.channel.tls import context_of
from p2p.identity.keys import Key

if TYPE_CHECKING:
    from p2p.libp2p.thread import MeshThread

NEAR_KEY, FAR_KEY = (Key(bytes([i]) * 32) for i in (1, 2))
NEAR, FAR = Credentials.of(NEAR_KEY), Credentials.of(FAR_KEY)
PIECE_BYTES = 1 << 18
MOST_BYTES = 1 << 27
WORD = struct.Struct("<q")  # asks for so many bytes; if negative, to echo as many
GIVE, ECHO = "/give/1", "/echo/1"
SILENCE_S = 20.0


def cpu_s() -> float:
    """Return the CPU time, in seconds, that this process has used."""
    used = getrusage(RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Giving:
    """A service: gives as many bytes as it is asked for, and echoes."""

    def __init__(self) -> None:
        self._bytes = memoryview(bytes(MOST_BYTES))

    def asked(self, peer: str, topic: str, body: bytes) -> "Future[memoryview]":
        """Give or echo."""
        done: Future[memoryview] = Future()
        give = topic == GIVE
        done.set_result(self._bytes[: int(body)] if give else memoryview(body))
        return done

    def told(self, peer: str, topic: str, body: bytes) -> None:
        """Take no notice."""


def open_channel(
    sock: socket.socket, *, near: bool, caps: Caps | None = None
) -> Channel:
    """Return our channel over ``sock``."""
    me, peer = (NEAR, FAR) if near else (FAR, NEAR)
    return channel(sock, me, peer.certificate, dialer=near, serve=Giving(), caps=caps)


def open_tls(sock: socket.socket, *, near: bool) -> ssl.SSLSocket:
    """Return a plain blocking TLS socket with the same certificates and settings."""
    me, peer = (NEAR, FAR) if near else (FAR, NEAR)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = context_of(me, peer.certificate, near)
    return context.wrap_socket(sock, server_side=not near)


def fill(sock: ssl.SSLSocket, into: memoryview) -> None:
    """Read until ``into`` is full.

    Raises:
        ConnectionResetError: the other end hung up.
    """
    at = 0
    while at < len(into):
        count = sock.recv_into(into[at : at + PIECE_BYTES])
        if not count:
            raise ConnectionResetError
        at += count


def _give_tls(sock: socket.socket) -> None:
    line = open_tls(sock, near=False)
    word, whole = memoryview(bytearray(WORD.size)), memoryview(bytearray(MOST_BYTES))
    while True:
        try:
            fill(line, word)
        except OSError:
            return
        size = WORD.unpack(word)[0]
        if size < 0:
            fill(line, whole[:-size])
        part = whole[: abs(size)]
        for at in range(0, len(part), PIECE_BYTES):
            line.sendall(part[at : at + PIECE_BYTES])


def _listen(way: str) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)  # noqa: T201 - the near end reads it

    def accept() -> None:
        kept = []
        while True:
            sock, _ = server.accept()
            if way == "channel":
                kept.append(open_channel(sock, near=False))
            else:
                Thread(target=_give_tls, args=(sock,), daemon=True).start()

    Thread(target=accept, daemon=True).start()


def serve_mesh(mesh: "MeshThread") -> None:
    """Give and echo over libp2p."""
    giving = Giving()

    def answer(topic: str, body: bytes) -> "Future[bytes]":
        done: Future[bytes] = Future()
        done.set_result(bytes(giving.asked("", topic, body).result()))
        return done

    mesh.serve(GIVE, lambda _, body: answer(GIVE, body))
    mesh.serve(ECHO, lambda _, body: answer(ECHO, body))


def _mesh() -> None:
    from p2p.libp2p.config import Libp2pConfig
    from p2p.libp2p.thread import MeshThread

    mesh = MeshThread(Libp2pConfig(FAR_KEY, ["/ip4/127.0.0.1/tcp/0"])).start()
    serve_mesh(mesh)
    print(mesh.addresses()[0], flush=True)  # noqa: T201 - the near end reads it


def main(way: str) -> None:
    """Be the far end until the input ends."""
    if way == "libp2p":
        _mesh()
    else:
        _listen(way)
    for _ in sys.stdin:
        print(cpu_s(), flush=True)  # noqa: T201 - the near end reads it


if __name__ == "__main__":
    main(sys.argv[1])
