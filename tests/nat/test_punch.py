"""Punching and listening on loopback: who gets in, who does not, which line wins."""

import random
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Timer

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.nat.hello import HELLO_BYTES, hello
from p2p.nat.listener import Listener
from p2p.nat.ports import bound, dropped
from p2p.nat.punch import Pace, open_socket
from tests.nat.loopback import at, both, pair, punch, talk

pytestmark = pytest.mark.slow
TOKEN = b"t" * 16


@pytest.fixture
def ports():
    with Listener() as a, Listener() as b:
        yield a, b


def stranger(port, said=b"", host="127.0.0.1"):
    sock = socket.create_connection((host, port), 5)
    if said:
        sock.sendall(said)
    return sock


def until(condition, timeout_s=5.0):
    end_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    return condition()


def hung_up(sock):
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_both_ends_get_the_same_connection(ports):
    a, b = pair(*ports)
    assert (a.dialer, b.dialer) == (True, False)
    assert a.path == b.path == "direct (same network)"
    assert a.sock.getsockname() == b.sock.getpeername()
    talk(a.sock, b.sock)
    a.sock.close()
    b.sock.close()


def test_many_peers_at_once_at_one_port_are_not_confused(ports):
    others = [Listener() for _ in range(6)]
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(other)
        with ThreadPoolExecutor(6) as pool:
            openings = list(pool.map(lambda other: pair(ports[0], other), others))
        for a, b in openings:
            talk(a.sock, b.sock)
            a.sock.close()
            b.sock.close()


def test_the_best_of_several_ways_is_taken_by_both(ports):
    la, lb = ports
    many = [at(lb.port, "observed"), at(lb.port), at(1)]
    a = punch("b", TOKEN, many, dialer=True)
    b = punch("a", TOKEN, [at(la.port), at(2)], dialer=False)
    x, y = (end.result() for end in both(a, b, la, lb))
    talk(x.sock, y.sock)
    x.sock.close()
    y.sock.close()


def test_one_side_that_can_be_dialled_is_enough(ports):
    la, lb = ports
    a = punch("b", TOKEN, [], dialer=True)
    b = punch("a", TOKEN, [at(la.port)], dialer=False)
    x, y = (end.result() for end in both(a, b, la, lb))
    talk(x.sock, y.sock)
    x.sock.close()
    y.sock.close()


def test_nobody_there_says_what_was_tried(ports):
    nobody = punch("b", TOKEN, [at(9)], dialer=True)
    with pytest.raises(PeerLostError, match=r"127.0.0.1:9 Connection refused"):
        open_socket(nobody, ports[0], random.Random(0), Pace(whole_s=0.3))


def test_two_diallers_do_not_make_a_pair(ports):
    la, lb = ports
    a = punch("b", TOKEN, [at(lb.port)], dialer=True)
    with pytest.raises(PeerLostError):
        open_socket(a, la, random.Random(0), Pace(whole_s=0.5))
    lb.expect(TOKEN, dialer=True)
    with stranger(lb.port, hello(TOKEN, dialer=True)) as sock:
        assert hung_up(sock)
    lb.forget(TOKEN)


def test_a_token_serves_one_punch_at_a_time(ports):
    ports[0].expect(TOKEN, dialer=True)
    with pytest.raises(ProtocolError, match="in use"):
        ports[0].expect(TOKEN, dialer=False)
    ports[0].forget(TOKEN)
    ports[0].expect(TOKEN, dialer=False)
    ports[0].forget(TOKEN)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        bytes(HELLO_BYTES),
        hello(b"?" * 16, dialer=True),
        hello(TOKEN, dialer=False),
        b"\x16\x03\x01" + bytes(200),
    ],
)
def test_strangers_are_cut_off_and_told_nothing(ports, said):
    ports[0].expect(TOKEN, dialer=False)
    with stranger(ports[0].port, said) as sock:
        assert hung_up(sock)
    ports[0].forget(TOKEN)


def test_silent_connections_are_cut_off_in_time():
    with Listener(patience_s=0.2) as listener:
        with stranger(listener.port, b"FC") as sock:
            assert hung_up(sock)
        assert listener.refused == 1


def test_a_thousand_half_open_connections_do_not_hurt():
    with Listener(most_half_open=100) as a, Listener() as b, ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(stranger(a.port))
        assert until(lambda: a.refused >= 900)
        assert a.half_open <= 100
        x, y = pair(a, b)
        talk(stack.enter_context(x.sock), stack.enter_context(y.sock))


def test_a_port_of_another_program_is_refused_by_name():
    with Listener() as listener, pytest.raises(ConfigError, match=str(listener.port)):
        Listener(listener.port)


def test_a_port_may_be_open_on_some_addresses_only():
    with Listener(0, ["127.0.0.1", "127.0.0.3"]) as listener:
        for host in ("127.0.0.1", "127.0.0.3"):
            stranger(listener.port, host=host).close()
        with pytest.raises(ConnectionRefusedError):
            stranger(listener.port, host="127.0.0.2")
    with pytest.raises(ConfigError, match=r"on 203\.0\.113\.9"):
        Listener(0, ["127.0.0.1", "203.0.113.9"])


def test_tokens_of_chance_do_not_open_a_port(ports):
    ports[0].expect(TOKEN, dialer=False)
    for _ in range(50):
        with stranger(ports[0].port, hello(secrets.token_bytes(16), dialer=True)) as s:
            assert hung_up(s)
    ports[0].forget(TOKEN)


def test_what_is_half_open_on_the_same_ports_is_waited_for():
    """The system refuses to dial; that uses up no try."""
    with Listener(patience_s=9) as a, Listener(patience_s=9) as b:
        between = bound(socket.AF_INET, a.port)
        between.setblocking(True)
        between.connect(("127.0.0.1", b.port))
        Timer(5.0, dropped, [between]).start()
        first = punch("b", TOKEN, [at(b.port)], dialer=True)
        second = punch("a", TOKEN, [at(a.port)], dialer=False)
        one, other = [end.result() for end in both(first, second, a, b, Pace())]
        talk(one.sock, other.sock)
        one.sock.close()
        other.sock.close()
