"""A tunnel carries TCP connections between two peers as a wire would."""

import errno
import random
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.channel.pipe import Do, Message
from p2p.channel.tunnel import TOPIC, Tunnel
from tests.channel_ends import A, B, pair, settled

pytestmark = pytest.mark.slow


@contextmanager
def service(answer):
    """Run ``answer(sock)`` in a thread for every connection; give the port."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def one(sock):
        with sock:
            answer(sock)

    def accepting():
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=accepting, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for thread in threads:
        thread.join(5)


def echo(sock):
    while data := sock.recv(65_536):
        sock.sendall(data)


def whole(sock):
    """Read until the other side has no more to say."""
    parts = []
    while data := sock.recv(65_536):
        parts.append(data)
    return b"".join(parts)


class Ends:
    """Two tunnels over a channel: of A, and of B. The channel may be replaced."""

    def __init__(self):
        self.near_tunnel = Tunnel(lambda *words: self.asking(self.near, *words))
        self.far_tunnel = Tunnel(lambda *words: self.asking(self.far, *words))
        self.connect()

    def connect(self):
        self.near, self.far = pair(serve=(self.near_tunnel, self.far_tunnel))

    def asking(self, end, peer, topic, body, timeout_s):
        assert peer == end.peer
        return end.ask(topic, body, timeout_s)

    def close(self):
        for each in (self.near_tunnel, self.far_tunnel, self.near, self.far):
            each.close()


@pytest.fixture
def ends():
    threads = threading.active_count()
    ends = Ends()
    yield ends
    ends.close()
    assert settled(threading.active_count, threads) == threads


def dial(forward):
    return socket.create_connection((forward.host, forward.port), timeout=10)


def test_many_connections_at_once_both_ways(ends):
    with service(echo) as port:
        ends.far_tunnel.expose("echo", "127.0.0.1", port)
        ends.near_tunnel.expose("echo", "127.0.0.1", port)
        forwards = (
            ends.near_tunnel.forward(B.peer, "echo"),
            ends.far_tunnel.forward(A.peer, "echo"),
        )

        def one(i):
            body = random.Random(i).randbytes(400_000 if i % 4 else 3)
            with dial(forwards[i % 2]) as sock:
                sender = threading.Thread(target=sock.sendall, args=(body,))
                sender.start()
                got = b""
                while len(got) < len(body):
                    got += sock.recv(65_536)
                sender.join()
            return got == body

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(one, range(24)))


def test_half_a_close_lets_the_other_half_go_on(ends):
    def answer(sock):
        question = whole(sock)
        sock.sendall(b"you said " + question)

    with service(answer) as port:
        ends.far_tunnel.expose("late", "127.0.0.1", port)
        with dial(ends.near_tunnel.forward(B.peer, "late")) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            assert whole(sock) == b"you said hello"
    assert settled(lambda: len(ends.near_tunnel._pipes), 0) == 0
    assert settled(lambda: len(ends.far_tunnel._pipes), 0) == 0


def test_a_reader_that_does_not_read_stops_the_writer(ends):
    go, size = threading.Event(), 60_000_000

    def answer(sock):
        go.wait(20)
        sock.sendall(b"%d" % len(whole(sock)))

    with service(answer) as port:
        ends.far_tunnel.expose("slow", "127.0.0.1", port)
        with dial(ends.near_tunnel.forward(B.peer, "slow")) as sock:
            sock.settimeout(0.5)
            sent = 0
            with pytest.raises(TimeoutError):  # noqa: PT012 - one of many sends
                while sent < size:
                    sent += sock.send(bytes(65_536))
            assert sent < size
            go.set()
            sock.settimeout(20)
            sock.shutdown(socket.SHUT_WR)
            assert int(whole(sock)) == sent


def test_only_what_is_exposed_can_be_reached(ends):
    with service(echo) as port:
        ends.far_tunnel.expose("mine", "127.0.0.1", port, allow=lambda peer: False)
        ends.far_tunnel.expose("hidden", "127.0.0.1", port)
        ends.far_tunnel.hide("hidden")
        for name in ("mine", "hidden", "127.0.0.1", "never"):
            with dial(ends.near_tunnel.forward(B.peer, name)) as sock:
                assert sock.recv(10) == b""
            opening = Message(Do.OPEN, True, 5, 0, name.encode()).encoded()
            with pytest.raises(ProtocolError, match="no service"):
                ends.near.ask(TOPIC, opening, 5).result()


def test_a_service_that_is_down_ends_the_connection(ends):
    with service(echo) as port:
        pass
    ends.far_tunnel.expose("down", "127.0.0.1", port)
    with dial(ends.near_tunnel.forward(B.peer, "down")) as sock:
        assert sock.recv(10) == b""


def test_a_name_is_looked_up_while_others_are_served(ends, monkeypatch):
    asked, go = threading.Event(), threading.Event()

    def slow(host, port, type):
        asked.set()
        go.wait(20)
        return [(socket.AF_INET, type, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(ends.far_tunnel._services, "names", slow)
    with service(echo) as port:
        ends.far_tunnel.expose("named", "web.example", port)
        ends.far_tunnel.expose("echo", "127.0.0.1", port)
        with dial(ends.near_tunnel.forward(B.peer, "named")) as named:
            assert asked.wait(10)
            with dial(ends.near_tunnel.forward(B.peer, "echo")) as other:
                other.sendall(b"meanwhile")
                assert other.recv(9) == b"meanwhile"
            go.set()
            named.sendall(b"at last")
            assert named.recv(7) == b"at last"


def test_one_can_ask_beforehand_whether_there_is_a_service(ends):
    with service(echo) as port:
        ends.far_tunnel.expose("echo", "127.0.0.1", port)
        assert ends.near_tunnel.tried(B.peer, "echo").result(10) == b""
        assert settled(lambda: len(ends.far_tunnel._pipes), 0) == 0
    for name, why in (("ecko", "no service 'ecko'"), ("echo", "does not answer")):
        with pytest.raises(ProtocolError, match=why):
            ends.near_tunnel.tried(B.peer, name).result(10)


def test_a_name_that_leads_nowhere_ends_the_connection(ends):
    ends.far_tunnel.expose("lost", "no.such.host.invalid", 80)
    with dial(ends.near_tunnel.forward(B.peer, "lost")) as sock:
        assert sock.recv(10) == b""


def test_an_end_that_is_gone_without_a_word_is_noticed(monkeypatch):
    monkeypatch.setattr("p2p.channel.tunnel._LOOK_S", 0.1)
    ends = Ends()
    far = ends.far_tunnel

    def crash():
        while far._pipes:
            far._waiting.forget(far._pipes.popitem()[1].sock)

    with service(echo) as port:
        far.expose("echo", "127.0.0.1", port)
        with dial(ends.near_tunnel.forward(B.peer, "echo")) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
            far._waiting.post(crash)
            assert sock.recv(1) == b""
    assert settled(lambda: len(ends.near_tunnel._pipes), 0) == 0
    ends.close()


def test_a_machine_without_sockets_refuses_and_goes_on(ends, monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "too many open files")

    with service(echo) as port:
        ends.far_tunnel.expose("echo", "127.0.0.1", port)
        opening = Message(Do.OPEN, True, 7, 0, b"echo").encoded()
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", none_left)
            answer = ends.far_tunnel.asked(A.peer, TOPIC, opening)
            assert "too many open files" in str(answer.exception(10))
        for message in (opening, Message(Do.RESET, True, 7).encoded()):
            assert ends.far_tunnel.asked(A.peer, TOPIC, message).result(10) == b""


def test_a_connection_lives_on_when_the_channel_is_replaced(ends):
    with service(echo) as port:
        ends.far_tunnel.expose("echo", "127.0.0.1", port)
        with dial(ends.near_tunnel.forward(B.peer, "echo")) as sock:
            sock.sendall(b"before")
            assert sock.recv(10) == b"before"
            ends.near.close()
            sock.sendall(b"between")
            ends.far.close()
            ends.connect()
            assert sock.recv(10) == b"between"


def test_a_port_in_use_and_names_that_are_none(ends):
    forward = ends.near_tunnel.forward(B.peer, "x")
    with pytest.raises(ConfigError, match="choose another port"):
        ends.far_tunnel.forward(A.peer, "x", port=forward.port)
    with pytest.raises(ConfigError, match="name of a service"):
        ends.far_tunnel.expose("a/b", "127.0.0.1", 80)
    with pytest.raises(ConfigError, match="give 1 to 65535"):
        ends.far_tunnel.expose("a", "127.0.0.1", 1 << 16)
    ends.near_tunnel.unforward(forward)

    def refused():
        with socket.socket() as sock:
            return sock.connect_ex((forward.host, forward.port)) == errno.ECONNREFUSED

    assert settled(refused, True)


def test_a_peer_that_stays_away_ends_the_connection(monkeypatch):
    monkeypatch.setattr("p2p.channel.tunnel._PATIENCE_S", 0.3)

    def gone(*_):
        future = Future()
        future.set_exception(PeerLostError("gone"))
        return future

    tunnel = Tunnel(gone)
    with dial(tunnel.forward(B.peer, "x")) as sock:
        assert sock.recv(1) == b""
    tunnel.close()
