"""The blind relay: who is joined, what it moves, and where it stops."""

import os
import resource
import secrets
import socket
import threading
import time
from contextlib import ExitStack

import pytest

from fedcore.errors import PeerLostError
from p2p.nat.circuit import Circuit
from p2p.nat.effects import Splice
from p2p.nat.grants import PAIRED, Warden, knock
from p2p.nat.listener import Listener
from p2p.nat.pipes import CopiedFlow, SplicedFlow
from p2p.nat.punch import Pace
from p2p.nat.quota import Quota
from p2p.nat.relay import SpliceRelay
from tests.nat.loopback import both, drain, punch, talk

pytestmark = pytest.mark.slow
WARDEN = Warden(b"s" * 32)
HERE = "127.0.0.1"


@pytest.fixture
def relay():
    with SpliceRelay(WARDEN, HERE) as relay:
        yield relay


def ticket(relay, peer="a", token=None):
    grant = WARDEN.grant(peer, (relay.address,), time.time())
    return grant.ticket(token or secrets.token_bytes(16))


def knocked(relay, leave, *, dialer):
    sock = socket.create_connection(relay.address, 5)
    sock.settimeout(20)  # a machine may be busy
    sock.sendall(knock(leave, dialer=dialer))
    return sock


def circuit(relay, leave=None):
    leave = leave or ticket(relay)
    ends = [knocked(relay, leave, dialer=dialer) for dialer in (True, False)]
    assert [end.recv(1) for end in ends] == [PAIRED, PAIRED]
    return ends


def word_of(sock):
    try:
        return sock.recv(1)
    except ConnectionError:
        return b""


def settled(relay, **wanted):
    """Wait until the relay's counts are as ``wanted``."""
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        tally = relay.tally()
        if all(getattr(tally, name) == value for name, value in wanted.items()):
            return True
        time.sleep(0.02)
    return False


def test_two_with_one_ticket_are_joined_and_others_are_not(relay):
    first, second = circuit(relay), circuit(relay)
    talk(*first)
    talk(*second)
    first[0].sendall(b"mine")
    assert first[1].recv(9) == b"mine"
    for end in [*first, *second]:
        end.close()
    assert settled(relay, circuits=0, opened=2)


def test_a_last_word_arrives_before_the_end(relay):
    a, b = circuit(relay)
    a.sendall(b"x" * 100_000)
    a.shutdown(socket.SHUT_WR)
    b.sendall(b"y" * 100_000)
    b.shutdown(socket.SHUT_WR)
    for end in (a, b):
        data = b"".join(iter(lambda end=end: end.recv(1 << 16), b""))
        assert len(data) == 100_000
        end.close()
    assert settled(relay, circuits=0)
    assert relay.tally().ended == {"done": 1}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"expires_s": 1}, "ticket refused"),
        ({"owner": b"o" * 16}, "ticket refused"),
        ({"token": b"o" * 16}, "ticket refused"),
        ({"proof": b"o" * 32}, "ticket refused"),
    ],
)
def test_forged_tickets_are_refused(relay, change, why):
    good = ticket(relay)
    fields = {name: getattr(good, name) for name in good.__slots__}
    with knocked(relay, type(good)(**{**fields, **change}), dialer=True) as sock:
        assert word_of(sock) == b"x"
    assert relay.tally().refused == {why: 1}


def test_nonsense_and_silence_cost_a_moment():
    with SpliceRelay(WARDEN, HERE, quota=Quota(knock_s=0.2)) as relay:
        with socket.create_connection(relay.address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n" * 10)
            assert word_of(sock) == b""
        with socket.create_connection(relay.address) as sock:
            assert word_of(sock) == b""
        assert relay.tally().refused == {"no ticket": 1, "silent": 1}


def test_who_waits_too_long_alone_is_sent_away():
    with SpliceRelay(WARDEN, HERE, quota=Quota(waiting_s=0.3)) as relay:
        with knocked(relay, ticket(relay), dialer=True) as sock:
            assert word_of(sock) == b""
        assert relay.tally().refused == {"waited too long": 1}


def test_a_thousand_silent_connections_do_not_hurt():
    with (
        SpliceRelay(WARDEN, HERE, quota=Quota(waiting=100)) as relay,
        ExitStack() as stack,
    ):
        early = ticket(relay)
        waiting = stack.enter_context(knocked(relay, early, dialer=True))
        for _ in range(1000):
            stack.enter_context(socket.create_connection(relay.address))
        other = stack.enter_context(knocked(relay, early, dialer=False))
        assert other.recv(1) == PAIRED
        assert waiting.recv(1) == PAIRED
        assert relay.tally().waiting <= 100


def test_who_has_shown_a_ticket_is_heard_before_it_makes_room():
    relay = SpliceRelay(WARDEN, HERE, quota=Quota(waiting=2))
    with ExitStack() as stack:  # the relay's thread does not run: its turns are ours
        early = stack.enter_context(knocked(relay, ticket(relay), dialer=True))
        relay._accept(0.0)
        stack.callback(lambda: relay.__enter__().__exit__())  # closes all
        stack.enter_context(socket.create_connection(relay.address))
        stack.enter_context(socket.create_connection(relay.address))
        relay._accept(0.0)
        early.setblocking(False)
        with pytest.raises(BlockingIOError):  # it is waited for, not hung up on
            early.recv(1)
        assert relay.tally().refused == {"too many": 1}


def test_quotas_hold():
    quota = Quota(circuits=3, circuits_of_peer=2)
    with SpliceRelay(WARDEN, HERE, quota=quota) as relay:
        ends = [*circuit(relay), *circuit(relay)]
        third = ticket(relay)
        pair = [knocked(relay, third, dialer=dialer) for dialer in (True, False)]
        assert [word_of(end) for end in pair] == [b"f", b"f"]
        others = circuit(relay, ticket(relay, "b"))
        fourth = ticket(relay, "c")
        last = [knocked(relay, fourth, dialer=dialer) for dialer in (True, False)]
        assert [word_of(end) for end in last] == [b"f", b"f"]
        for sock in [*ends, *pair, *others, *last]:
            sock.close()


@pytest.mark.parametrize(
    ("quota", "why"),
    [
        (Quota(circuit_bytes=1 << 20), "bytes of a circuit"),
        (Quota(peer_bytes=1 << 20), "bytes of a peer"),
        (Quota(idle_s=0.2), "idle"),
        (Quota(circuit_s=0.2), "time of a circuit"),
    ],
)
def test_a_circuit_ends_when_a_quota_is_used_up(quota, why):
    with SpliceRelay(WARDEN, HERE, quota=quota) as relay:
        a, b = circuit(relay)
        done = drain(b, 1 << 30)
        if "bytes" in why:
            with pytest.raises(ConnectionError):
                a.sendall(bytes(64 << 20))
        assert settled(relay, circuits=0)
        tally = relay.tally()
        assert tally.ended == {why: 1}
        assert tally.bytes < 8 << 20
        assert not done.is_set()
        for end in (a, b):
            end.close()


def test_a_reader_that_stops_costs_no_memory_and_hinders_nobody(relay):
    slow, fast = circuit(relay), circuit(relay)
    slow[0].setblocking(False)
    sent = stuck = 0
    while stuck < 20:  # until all buffers on the way are full
        try:
            sent += slow[0].send(bytes(1 << 20))
            stuck = 0
        except BlockingIOError:
            stuck += 1
            time.sleep(0.005)
        assert sent < 64 << 20
    assert sent
    talk(*fast)
    for end in [*slow, *fast]:
        end.close()


@pytest.mark.parametrize("kind", [SplicedFlow, CopiedFlow])
def test_both_kinds_of_flow_move_the_same_bytes(kind):
    """One circuit by hand, with small and large pieces in both directions."""
    import selectors

    (a, x), (y, b) = socket.socketpair(), socket.socketpair()
    for sock in (x, y):
        sock.setblocking(False)
    selector = selectors.DefaultSelector()
    one = Circuit(b"o" * 16, (x, y), 0.0, make=kind)
    one.watch(selector)
    sent = [os.urandom(1_500_000), os.urandom(700_001)]
    got = [bytearray(), bytearray()]

    def send(sock, data):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    def receive(sock, into):
        while part := sock.recv(9999):
            into += part

    senders, receivers = zip((a, b), sent, strict=True), zip((b, a), got, strict=True)
    threads = [threading.Thread(target=send, args=end) for end in senders]
    threads += [threading.Thread(target=receive, args=end) for end in receivers]
    for thread in threads:
        thread.start()
    while not one.done:
        selector.select(1)
        one.move(0.0)
        one.watch(selector)
    for thread in threads:
        thread.join()
    assert [bytes(data) for data in got] == sent
    assert one.bytes == sum(map(len, sent))
    one.close(selector)
    selector.close()
    a.close()
    b.close()


def test_a_punch_without_a_direct_way_is_spliced(relay):
    token = secrets.token_bytes(16)
    splices = (Splice("r", relay.address, ticket(relay, token=token)),)
    with Listener() as la, Listener() as lb:
        more = {"splices": splices, "patience_s": 0.2}
        a = punch("b", token, [], dialer=True, **more)
        b = punch("a", token, [], dialer=False, **more)
        x, y = (end.result() for end in both(a, b, la, lb))
        assert (x.relay, x.path) == ("r", "relayed by r")
        talk(x.sock, y.sock)
        x.sock.close()
        y.sock.close()


def test_a_relay_that_refuses_is_named(relay):
    token = secrets.token_bytes(16)
    bad = Warden(b"?" * 32).grant("a", (), time.time()).ticket(token)
    splices = (Splice("r", relay.address, bad),)
    with Listener() as la, Listener() as lb:
        more = {"splices": splices, "patience_s": 0.0}
        ends = both(
            punch("b", token, [], dialer=True, **more),
            punch("a", token, [], dialer=False, **more),
            la,
            lb,
            Pace(whole_s=0.5),
        )
        for end in ends:
            with pytest.raises(PeerLostError, match="ticket refused"):
                end.result()


def test_the_relays_thread_moves_fifty_times_what_that_of_libp2p_does(relay):
    """py-libp2p's relay moves 13 MB a CPU-second."""
    before = _thread_s("relay")
    a, b = circuit(relay)
    total = 1 << 28
    done = drain(b, total)
    chunk = memoryview(bytes(1 << 20))
    for _ in range(total >> 20):
        a.sendall(chunk)
    assert done.wait(30)
    spent_s = _thread_s("relay") - before
    rate = total / 1e6 / max(spent_s, 1e-3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20
    assert rate > 13 * 50, f"{rate:.0f} MB a CPU-second"
    a.close()
    b.close()


def _thread_s(name):
    """Return the processor time of a thread of this process, in seconds."""
    (thread,) = [t for t in threading.enumerate() if t.name == name]
    clock = time.pthread_getcpuclockid(thread.ident)
    return time.clock_gettime(clock)
