"""Servers of this package on a machine that has no descriptors left."""

import errno
from types import SimpleNamespace

import pytest

from p2p.nat.grants import Warden
from p2p.nat.listener import Listener
from p2p.nat.relay import SpliceRelay
from p2p.nat.whoami import WhoamiService


def none_left():
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.fixture(params=["listener", "relay", "whoami"])
def accept(request):
    """Return one accept of a server that can have no socket, and its pauses."""
    full, pauses = SimpleNamespace(accept=none_left), []
    stop = SimpleNamespace(wait=pauses.append, is_set=lambda: False, set=lambda: None)
    if request.param == "listener":
        with Listener() as server:
            held, server._stop = server._stop, stop
            yield lambda: server._accept(full), pauses
            server._stop = held
        return
    makers = {
        "relay": lambda: SpliceRelay(Warden(bytes(32)), "127.0.0.1"),
        "whoami": lambda: WhoamiService("127.0.0.1"),
    }
    with makers[request.param]() as server:
        held, real = server._stop, server._server
        server._stop, server._server = stop, full
        more = (0.0,) if request.param == "relay" else ()
        yield lambda: server._accept(*more), pauses
        server._stop, server._server = held, real


def test_a_server_without_descriptors_rests_in_place_of_spinning(accept):
    once, pauses = accept
    once()
    assert len(pauses) == 1
    assert pauses[0] > 0
