"""Two ends of a channel over a loopback connection, for tests."""

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fedcore.errors import PeerLostError, ProtocolError
from p2p.channel.certificates import Credentials
from p2p.channel.channel import channel
from p2p.identity.keys import Key

A, B, C = (Credentials.of(Key(bytes([i]) * 32)) for i in (1, 2, 3))


def done(value):
    future = Future()
    future.set_result(value)
    return future


class Echo:
    """Answers with what came, refuses on "/no", and keeps what is told.

    "/give N" gives N bytes, "/later" answers when ``release`` is set.
    """

    def __init__(self):
        self.tells, self.peers = [], set()
        self.released = []
        self.changed = threading.Condition()

    def asked(self, peer, topic, body):
        self.peers.add(peer)
        if topic == "/no":
            raise ProtocolError("not from you")
        if topic == "/lost":
            raise PeerLostError("going away")
        if topic == "/bug":
            raise ZeroDivisionError
        if topic == "/give":
            return done(bytes(int(body)))
        if topic == "/later":
            future = Future()
            self.released.append(future)
            return future
        return done(body)

    def told(self, peer, topic, body):
        with self.changed:
            self.tells.append((topic, body))
            self.changed.notify_all()

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.tells) >= count, 10)
        return self.tells


def sockets():
    """Return two ends of a loopback connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def both(make_near, make_far):
    """Run two functions at once; return their results, or raise the first error."""
    with ThreadPoolExecutor(2) as pool:
        near, far = pool.submit(make_near), pool.submit(make_far)
        errors = [near.exception(20), far.exception(20)]
    if any(errors):
        for future, error in zip((near, far), errors, strict=True):
            if error is None:
                future.result().close()
        raise next(error for error in errors if error)
    return near.result(), far.result()


def pair(ends=None, serve=None, limits=(None, None), caps=(None, None)):
    """Return two channels to each other: of A, who dialled, and of B."""
    near, far = ends or sockets()
    serve = serve or (Echo(), Echo())
    return both(
        lambda: channel(
            near,
            A,
            B.certificate,
            dialer=True,
            serve=serve[0],
            limits=limits[0],
            caps=caps[0],
        ),
        lambda: channel(
            far,
            B,
            A.certificate,
            dialer=False,
            serve=serve[1],
            limits=limits[1],
            caps=caps[1],
        ),
    )


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def settled(look, wanted, timeout_s=5.0):
    """Wait until ``look()`` is ``wanted``; return the last value seen."""
    until = time.monotonic() + timeout_s
    while look() != wanted and time.monotonic() < until:
        time.sleep(0.01)
    return look()
