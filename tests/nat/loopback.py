"""Pieces that tests on loopback share: ports, punches, and both of their ends."""

import random
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from p2p.nat.addresses import Address, Candidate
from p2p.nat.effects import Punch
from p2p.nat.hello import TOKEN_BYTES
from p2p.nat.listener import Listener
from p2p.nat.punch import Opening, Pace, open_socket

PACE = Pace(whole_s=3.0)


def at(port, kind="lan"):
    return Candidate(kind, Address("127.0.0.1", port))


def punch(peer, token, candidates, *, dialer, **more):
    return Punch(
        peer=peer,
        ticket=1,
        token=token,
        dialer=dialer,
        certificate=b"c",
        candidates=tuple(candidates),
        **more,
    )


def both(
    a: Punch, b: Punch, la: Listener, lb: Listener, pace: Pace = PACE
) -> tuple[Future[Opening], ...]:
    """Run both sides at once; return what became of them."""
    with ThreadPoolExecutor(2) as pool:
        ends = [(a, la), (b, lb)]
        return tuple(
            pool.submit(open_socket, p, listener, random.Random(i), pace)
            for i, (p, listener) in enumerate(ends)
        )


def pair(la, lb, token=None, **more):
    """Return the two openings of a punch between two listeners."""
    token = token or secrets.token_bytes(TOKEN_BYTES)
    a = punch("b", token, [at(lb.port)], dialer=True, **more)
    b = punch("a", token, [at(la.port)], dialer=False, **more)
    return [end.result() for end in both(a, b, la, lb)]


def talk(one, other):
    """Make sure that two sockets are the two ends of one connection."""
    one.sendall(b"to other")
    other.sendall(b"to one")
    assert other.recv(64) == b"to other"
    assert one.recv(64) == b"to one"


def drain(sock, count, done=None):
    """Read ``count`` bytes in a thread; the event is set at the end."""
    done = done or threading.Event()

    def read():
        left, buffer = count, bytearray(1 << 18)
        with suppress(OSError):
            while left > 0:
                got = sock.recv_into(buffer)
                if not got:
                    return
                left -= got
            done.set()

    threading.Thread(target=read, daemon=True).start()
    return done
