"""Attempts at data channels always end, and in the right order."""

import random
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fedcore.errors import PeerLostError
from p2p import wires as node_wires
from p2p.channel.caps import Caps
from p2p.channel.channel import channel
from p2p.channel.width import MOST
from p2p.driver import Driver
from p2p.identity.keys import Key
from p2p.lines import Line
from p2p.machine import Ask, Tell
from p2p.nat.effects import Closed, NotOpened, Opened, Punch
from p2p.nat.punch import Opening
from p2p.transport import MAX_BODY_BYTES
from p2p.wires import NodeWires
from tests.channel_ends import A, B, Echo, both, sockets

pytestmark = pytest.mark.slow
PUNCH = Punch(B.peer, 7, bytes(16), True, B.certificate, ())


class Silent:
    topics = ()

    def step(self, now_s, event):
        heard.append(event)
        return ()


heard = []


@pytest.fixture
def wires():
    heard.clear()
    mesh = SimpleNamespace(
        serve=lambda *_: None, watch=lambda _: None, listen_elsewhere=lambda _: None
    )
    made = NodeWires(mesh, SimpleNamespace(port=1), A, Caps(), random.Random(1))
    driver = Driver(Silent(), made, lambda note: None).start()
    made.attach(driver)
    yield made
    made.close()
    driver.close()


def until(good):
    until_s = time.monotonic() + 20
    while not good():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def opening_to(wires, monkeypatch, serve, ended_first=False, punch=PUNCH):
    """Punch to a far end that hangs up; return once the attempt has ended."""
    near, far = sockets()
    opened = threading.Event()
    opening = Opening(near, True, "direct (same network)", None)
    monkeypatch.setattr(node_wires, "open_socket", lambda *_: opening)

    def answer():
        try:
            made = channel(far, B, A.certificate, dialer=False, serve=serve)
        except PeerLostError:
            return None  # hung up on before it was quite open
        if ended_first:
            opened.wait(20)
            made.close("no more")
        return made

    if ended_first:  # so that it is over before the attempt is reported

        def slowly(*args, **more):
            made = channel(*args, **more)
            opened.set()
            until(lambda: made.over is not None)
            return made

        monkeypatch.setattr(node_wires, "channel", slowly)
    post = wires._driver.post
    return both(lambda: wires._punch(punch, post), answer)[1]


def channels_heard():
    return [type(e) for e in heard if isinstance(e, Opened | Closed | NotOpened)]


def test_a_punch_that_cannot_even_begin_ends(wires):
    def no_descriptors(*_, **__):
        raise OSError(24, "Too many open files")

    wires.listener.expect = no_descriptors
    wires.do(PUNCH, wires._driver.post)
    until(channels_heard)
    (event,) = [e for e in heard if isinstance(e, NotOpened)]
    assert (event.peer, event.ticket) == (B.peer, 7)
    assert "Too many open files" in event.why


def test_a_channel_that_ends_at_once_is_first_open_and_then_closed(wires, monkeypatch):
    opening_to(wires, monkeypatch, Echo(), ended_first=True)
    until(lambda: len(channels_heard()) == 2)
    assert channels_heard() == [Opened, Closed]
    assert wires.lines() == {}


def test_a_question_for_much_data_waits_for_a_channel(wires, monkeypatch):
    answer = wires.ask(Ask(B.peer, "/x", b"much", 1, 20.0, bulk=True))
    assert not answer.done()
    far = opening_to(wires, monkeypatch, Echo(), ended_first=False)
    assert answer.result(20) == b"much"
    far.close()
    until(lambda: channels_heard() == [Opened, Closed])


def test_channels_beside_the_first_share_much_data_and_outlive_it(wires, monkeypatch):
    beside = replace(PUNCH, beside=True)
    far = [opening_to(wires, monkeypatch, Echo(), punch=beside) for _ in range(MOST)]
    assert wires.channels(B.peer) == MOST
    assert [e.beside for e in heard if isinstance(e, Opened)] == [False] + [True] * 3
    body = bytes(100_000)
    asks = [wires.ask(Ask(B.peer, "/x", body, n, 20.0, bulk=True)) for n in range(8)]
    assert {ask.result(20) for ask in asks} == {body}
    assert min(end.received_bytes for end in far) > 2 * len(body)
    opening_to(wires, monkeypatch, Echo(), punch=beside)  # one more than there may be
    assert wires.channels(B.peer) == MOST
    moved = wires.moved(B.peer)
    far[0].close()
    until(lambda: wires.channels(B.peer) == MOST - 1)
    assert wires.ask(Ask(B.peer, "/x", b"small", 1, 20.0)).result(20) == b"small"
    assert all(
        now >= then for now, then in zip(wires.moved(B.peer), moved, strict=True)
    )
    assert Closed not in channels_heard()
    for end in far:
        end.close()
    until(lambda: Closed in channels_heard())


def test_the_end_closes_channels_that_were_just_replaced_too(wires, monkeypatch):
    far = [opening_to(wires, monkeypatch, Echo()) for _ in range(2)]
    assert wires.channels(B.peer) == 1
    wires.close()
    until(lambda: all(end.over is not None for end in far))


def test_a_move_ends_what_this_machine_lost_and_nothing_else(wires):
    def line(number, host):
        key = Key(bytes([number]) * 32)
        made = SimpleNamespace(peer=key.peer, on_close=lambda _: None, over=None)
        made.close = lambda why: closed.append(host)
        return Line(made, "direct", None, host)

    closed, left = [], []
    wires.mesh.leave = left.append
    for number, host in enumerate(("::1", "::ffff:127.0.0.1", "10.0.0.7", "10.0.0.8")):
        wires._lines.add(line(number + 5, host), beside=False)
    wires.move({"10.0.0.8"})
    until(lambda: closed == ["10.0.0.7"])
    assert left == [{"10.0.0.8", "127.0.0.1", "::1"}]


def test_what_is_too_long_to_be_told_without_a_channel_is_dropped(wires):
    wires.tell(
        Tell(B.peer, "/x", bytes(MAX_BODY_BYTES + 1))
    )  # the mesh here cannot tell


def test_a_punch_that_outlives_the_node_opens_nothing(wires, monkeypatch):
    wires.close()
    far = opening_to(wires, monkeypatch, Echo(), ended_first=False)
    until(lambda: far is None or far.over is not None)
    assert wires.lines() == {}
    assert channels_heard() in ([], [NotOpened])
