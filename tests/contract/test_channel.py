"""What a channel promises, over real sockets."""

import contextlib
import errno
import random
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.channel.caps import Caps
from p2p.channel.channel import channel
from p2p.channel.frames import HEAD, Kind, frame
from p2p.channel.limits import Limits
from p2p.channel.tls import Tls, context_of, tune
from tests.channel_ends import (
    A,
    B,
    C,
    Echo,
    both,
    done,
    open_files,
    pair,
    settled,
    sockets,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def ends():
    serve = Echo(), Echo()
    near, far = pair(serve=serve)
    near.serves, far.serves = serve
    yield near, far
    near.close()
    far.close()


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000, 1_000_001])
def test_bodies_of_any_size_come_whole(ends, size):
    near, far = ends
    body = random.Random(size).randbytes(size)
    assert near.ask("/echo/1", body, 10).result() == body
    assert far.ask("/echo/1", memoryview(body), 10).result() == body
    into = memoryview(bytearray(size + 3))
    assert near.ask("/echo/1", body, 10, into=into).result() == size
    assert into[:size] == body
    near.tell("/t", body)
    assert far.serves.wait_for(1) == [("/t", body)]
    assert near.over is None is far.over


def test_each_end_knows_the_other(ends):
    near, far = ends
    assert (near.peer, far.peer) == (B.peer, A.peer)
    near.ask("/x", b"", 5).result()
    far.ask("/x", b"", 5).result()
    assert far.serves.peers == {A.peer}
    assert near.serves.peers == {B.peer}
    assert near.path.startswith("127.0.0.1:")
    assert settled(lambda: near.rtt_s() is not None, True)
    assert 0 < near.rtt_s() < 5
    assert near.sent_bytes > 0 < near.received_bytes


def test_refusals_are_told_by_their_kind(ends):
    near, _ = ends
    with pytest.raises(ProtocolError, match="not from you"):
        near.ask("/no", b"", 5).result()
    with pytest.raises(PeerLostError, match="going away"):
        near.ask("/lost", b"", 5).result()
    with pytest.raises(PeerLostError, match="a fault there"):
        near.ask("/bug", b"", 5).result()
    with pytest.raises(ProtocolError, match="no body of 1048577 bytes"):
        near.ask("/x", bytes(1_048_577), 5).result()
    with pytest.raises(ProtocolError, match="is no topic"):
        near.ask("a topic", b"", 5)
    with pytest.raises(ConfigError, match="read-only"):
        near.ask("/x", b"", 5, into=memoryview(b"12"))
    assert near.ask("/x", b"still here", 5).result() == b"still here"


def test_an_answer_that_is_late_or_too_long_harms_nothing(ends):
    near, far = ends
    late = near.ask("/later", b"", 0.05)
    with pytest.raises(PeerLostError, match="in time"):
        late.result()
    far.serves.released[0].set_result(b"at last")
    into = memoryview(bytearray(10))
    with pytest.raises(ProtocolError, match="300000 bytes, 10 allowed"):
        near.ask("/give", b"300000", 5, into=into).result()
    assert bytes(into) == bytes(10)
    assert near.ask("/x", b"fine", 5).result() == b"fine"


def test_bulk_both_ways_while_small_asks_overtake():
    caps = Caps(up_bytes_s=5_000_000), Caps(up_bytes_s=5_000_000)
    near, far = pair(caps=caps)
    size = 30_000_000
    buffers = [memoryview(bytearray(size)) for _ in range(4)]
    bulk = [
        end.ask("/give", b"%d" % size, 60, into=buffer)
        for end, buffer in zip((near, near, far, far), buffers, strict=True)
    ]
    small = [near.ask("/x", b"%d" % i, 60).result() for i in range(20)]
    assert small == [b"%d" % i for i in range(20)]
    assert not any(reply.done() for reply in bulk)
    for each in caps:
        each.up.set(None)
    assert [reply.result() for reply in bulk] == [size] * 4
    near.close()
    far.close()


def test_thousands_of_small_asks_from_many_threads(ends):
    near, far = ends

    def many(i):
        asked = [(end, b"%d/%d" % (i, j)) for j in range(150) for end in ends]
        replies = [(end.ask("/x", body, 60), body) for end, body in asked]
        return all(reply.result() == body for reply, body in replies)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))
    assert near.over is None is far.over


def test_a_cut_in_the_middle_loses_all_pending_asks():
    (near_sock, far_sock), serve = sockets(), (Echo(), Echo())
    near, far = pair((near_sock, far_sock), serve)
    into = memoryview(bytearray(100))
    pending = [near.ask("/later", b"", 60) for _ in range(9)]
    pending.append(near.ask("/later", b"", 60, into=into))
    assert settled(lambda: len(serve[1].released), 10) == 10
    ended = []
    near.on_close(ended.append)
    near_sock.shutdown(socket.SHUT_RDWR)
    for reply in pending:
        with pytest.raises(PeerLostError, match=B.peer):
            reply.result(10)
    assert settled(lambda: len(ended), 1) == 1
    assert isinstance(ended[0], PeerLostError)
    assert settled(lambda: far.over is not None, True)
    with pytest.raises(PeerLostError):
        near.ask("/x", b"", 5).result()
    near.tell("/x", b"dropped in silence")
    near.on_close(ended.append)
    assert ended[0] is ended[1] is near.over


def test_closing_is_clean_and_tells_why():
    threads, files = threading.active_count(), open_files()
    for _ in range(3):
        near, far = pair()
        pending = near.ask("/later", b"", 60)
        told = []
        far.on_close(told.append)
        near.close("enough for today")
        with pytest.raises(PeerLostError, match="enough for today"):
            pending.result(0)
        far.close()
        assert "hung up: enough for today" in str(told[0])
        near.close()
    assert settled(threading.active_count, threads) == threads
    assert settled(open_files, files) == files


def test_a_failed_handshake_leaves_nothing_behind():
    threads, files = threading.active_count(), open_files()
    near, far = sockets()
    far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError, match=f"{B.peer} is not there"):
        channel(near, A, B.certificate, dialer=True, serve=Echo())
    far.close()
    assert settled(threading.active_count, threads) == threads
    assert settled(open_files, files) == files


class Gone(socket.socket):
    """A connection that the other end resets as soon as the hands are shaken."""

    def getpeername(self):
        raise OSError(errno.ENOTCONN, "not connected")


def test_a_reset_right_after_the_handshake_leaves_nothing_behind():
    threads, files, caps = threading.active_count(), open_files(), Caps()
    near, far = sockets()
    with pytest.raises(PeerLostError, match="cannot open a channel"):
        pair(ends=(Gone(fileno=near.detach()), far), caps=(caps, None))
    assert caps.up.sharers == 0
    assert settled(threading.active_count, threads) == threads
    assert settled(open_files, files) == files


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param((A, C), (A, B), id="the answerer has another key"),
        pytest.param((C, B), (A, B), id="the dialer has another key"),
    ],
)
def test_another_key_is_refused_by_both(shown, expected):
    errors = []

    def end(sock, me, peer, dialer):
        try:
            channel(sock, me, peer.certificate, dialer=dialer, serve=Echo())
        except (ProtocolError, PeerLostError) as error:
            errors.append(error)

    near, far = sockets()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(end, near, shown[0], expected[1], True)
        pool.submit(end, far, shown[1], expected[0], False)
    assert len(errors) == 2
    assert any("certificate verify failed" in str(e) for e in errors)
    assert any(isinstance(e, ProtocolError) for e in errors)


class Stolen:
    """The certificate of one peer with the key of another, as a thief would try."""

    peer, certificate, secret = B.peer, B.certificate, C.secret


def test_a_certificate_without_its_key_proves_nothing():
    near, far = sockets()
    with pytest.raises(ConfigError):
        Tls(far, Stolen, A.certificate, dialer=False)
    tls = context_of(C, A.certificate, dialer=False)

    def thief():
        with pytest.raises(ssl.SSLError), contextlib.closing(far):
            tls.wrap_socket(far, server_side=True)

    thread = threading.Thread(target=thief)
    thread.start()
    with pytest.raises(ProtocolError, match="certificate verify failed"):
        channel(near, A, B.certificate, dialer=True, serve=Echo())
    thread.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_tls_is_refused(version):
    near, far = sockets()
    old = context_of(B, A.certificate, dialer=False)
    old.minimum_version, old.maximum_version = version, version

    def answer():
        with contextlib.suppress(OSError), contextlib.closing(far):
            old.wrap_socket(far, server_side=True)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(ProtocolError, match="version"):
        channel(near, A, B.certificate, dialer=True, serve=Echo())
    thread.join()


def test_a_slow_handshake_has_a_deadline():
    near, far = sockets()
    with pytest.raises(PeerLostError, match="did not shake hands"):
        channel(
            near,
            A,
            B.certificate,
            dialer=True,
            serve=Echo(),
            limits=Limits(handshake_s=0.2),
        )
    far.close()


class Rogue:
    """B's end of a connection, speaking TLS by the rules and frames against them."""

    def __init__(self, sock):
        self.tls = Tls(sock, B, A.certificate, dialer=False)
        self.tls.shake(10)
        sock.setblocking(True)

    def send(self, data):
        self.tls.write(data)
        with contextlib.suppress(PeerLostError):
            self.tls.flush()

    def close(self):
        self.tls.sock.close()


HELLO = frame(Kind.HELLO, tail=Limits().greeting(1 << 20).encoded())
BAD = {
    "garbage": (b"\xff" * 40, "unknown kind"),
    "no hello": (frame(Kind.PING, number=1), "PING out of turn"),
    "two hellos": (HELLO + HELLO, "HELLO out of turn"),
    "huge": (HELLO + HEAD.pack(Kind.ASK, 1, 0, 1, 1, 1 << 63) + b"/x", "number 92233"),
    "large": (HELLO + HEAD.pack(Kind.ASK, 1, 0, 1, 1, 1 << 30) + b"/x", "1073741824"),
    "unknown answer": (HELLO + HEAD.pack(Kind.ANSWER, 0, 0, 0, 7, 0), "not open"),
    "part of nothing": (
        HELLO + HEAD.pack(Kind.PART, 0, Kind.ASK, 1, 7, 0) + b"x",
        "not open",
    ),
    "a finished body goes on": (
        HELLO
        + HEAD.pack(Kind.TELL, 1, 0, 1, 7, 1)
        + b"/x"
        + HEAD.pack(Kind.PART, 0, Kind.TELL, 1, 7, 1),
        "not open",
    ),
    "a pong nobody asked for": (HELLO + frame(Kind.PONG, number=77), "PONG 77"),
    "words that break lines": (HELLO + frame(Kind.BYE, tail=b"a\nb"), "printed"),
    "too many asks": (
        HELLO
        + b"".join(HEAD.pack(Kind.ASK, 6, 0, 0, i, 0) + b"/later" for i in range(1025)),
        "more than 1024 asks",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_frames_end_the_channel_with_a_reason(name):
    data, reason = BAD[name]
    near, far = sockets()

    def honest():
        return channel(near, A, B.certificate, dialer=True, serve=Echo())

    def rogue():
        rogue = Rogue(far)
        rogue.send(data)
        return rogue

    try:
        near_end, far_end = both(honest, rogue)
        assert settled(lambda: near_end.over is not None, True)
        ended = near_end.over
        far_end.close()
        near_end.close()
    except ProtocolError as error:  # already at the opening
        ended = error
    assert isinstance(ended, ProtocolError)
    assert reason in str(ended)
    assert B.peer in str(ended)


def test_bytes_that_tls_did_not_seal_end_the_channel():
    near_sock, far_sock = sockets()
    near, far = pair((near_sock, far_sock))
    spare = socket.socket(fileno=socket.dup(far_sock.fileno()))
    spare.send(struct.pack(">BHH", 23, 0x0303, 20) + bytes(20))
    assert settled(lambda: near.over is not None, True)
    assert isinstance(near.over, ProtocolError)
    assert "not the peer's" in str(near.over)
    spare.close()
    near.close()
    far.close()


def test_who_sends_beyond_the_credit_is_cut_off():
    near, far = sockets()
    small = Limits(window_bytes=1 << 12)

    def rogue():
        made = Rogue(far)
        made.send(HELLO)
        return made

    near_end, far_end = both(
        lambda: channel(
            near, A, B.certificate, dialer=True, serve=Echo(), limits=small
        ),
        rogue,
    )
    far_end.send(HEAD.pack(Kind.TELL, 2, 0, 5000, 1, 5000) + b"/x" + bytes(5000))
    assert settled(lambda: near_end.over is not None, True)
    assert "with a credit of" in str(near_end.over)
    far_end.close()
    near_end.close()


class Slow:
    """Deals with nothing until it may; counts what it was given."""

    def __init__(self):
        self.held, self.futures = 0, []

    def asked(self, peer, topic, body):
        return done(b"")

    def told(self, peer, topic, body):
        future = done(None).__class__()
        self.held += len(body)
        self.futures.append((future, len(body)))
        return future


def test_a_slow_reader_is_given_a_bounded_amount_and_nothing_is_lost():
    limits = Limits(ask_bytes=1 << 16, held_bytes=1 << 19)
    slow = Slow()
    near, far = pair(serve=(Echo(), slow), limits=(None, limits))
    for _ in range(40):
        near.tell("/t", bytes(50_000))
    assert settled(lambda: slow.held, 100_000) == 100_000  # a fourth of held_bytes
    assert near.ask("/x", b"", 5).result() == b""  # asks still have room
    assert slow.held == 100_000
    released = 0
    while released < 40:
        assert settled(lambda: len(slow.futures) > 0, True)
        future, size = slow.futures.pop(0)
        slow.held -= size
        future.set_result(None)
        released += 1
    near.close()
    far.close()


def test_the_service_may_close_the_channel_and_ask_back():
    class Back(Echo):
        def asked(self, peer, topic, body):
            return far.ask("/x", body + b"!", 5)

    near, far = pair(serve=(Echo(), Back()))
    assert near.ask("/back", b"hey", 5).result() == b"hey!"
    closed = threading.Event()
    near.ask("/back", b"", 5).add_done_callback(lambda _: (near.close(), closed.set()))
    assert closed.wait(5)
    assert settled(lambda: far.over is not None, True)
    near.close()


def test_tuning_what_is_no_tcp_socket_is_harmless():
    a, b = socket.socketpair()
    tune(a, 1.0)
    near, far = pair((a, b))
    assert near.ask("/x", b"1", 5).result() == b"1"
    assert near.path == "here"
    near.close()
    far.close()


def test_a_peer_that_falls_silent_is_lost():
    near, far = sockets()
    limits = Limits(ping_s=0.05, silence_s=0.3)

    def honest():
        peer = B.certificate
        return channel(near, A, peer, dialer=True, serve=Echo(), limits=limits)

    def mute():
        rogue = Rogue(far)
        rogue.send(HELLO)
        return rogue

    near_end, far_end = both(honest, mute)
    pending = near_end.ask("/x", b"", 60)
    with pytest.raises(PeerLostError, match=r"silent for 0\.3 s"):
        pending.result(10)
    far_end.close()
    near_end.close()


def test_worn_keys_end_a_channel():
    near, far = pair(limits=(Limits(wear_bytes=1_000_000), None))
    near.ask("/x", bytes(900_000), 10).result()
    near.tell("/x", bytes(200_000))
    assert settled(lambda: near.over is not None, True)
    assert "keys are worn" in str(near.over)
    near.close()
    far.close()
