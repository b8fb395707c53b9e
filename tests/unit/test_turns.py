"""Whose turn it is: by time taken, in order for each peer; and what is bounded."""

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import PeerLostError
from p2p.driver import MOST_BYTES_EACH, MOST_TOLD_EACH, Driver
from p2p.machine import Asked, Down, Told
from p2p.turns import NOBODY, REMEMBERED, Turns


def all_of(turns):
    found = []
    while (taken := turns.take(0.0)) is not None:
        found.append(taken)
    return found


def test_who_took_least_time_comes_first():
    turns = Turns()
    for number in range(3):
        turns.put("eve", number)
    assert turns.take(0.0) == ("eve", 0)
    turns.spent("eve", 5.0)
    turns.put("bob", "b")
    turns.put("cyd", "c")
    assert turns.take(0.0) == ("bob", "b")
    turns.spent("bob", 1.0)
    turns.put("bob", "d")
    assert [peer for peer, _ in all_of(turns)] == ["cyd", "bob", "eve", "eve"]


def test_silence_is_no_credit():
    turns = Turns()
    turns.put("bob", 0)
    for number in range(10):
        turns.put("eve", number)
    for _ in range(4):  # bob, then eve thrice
        turns.spent(turns.take(0.0)[0], 1.0)
    for number in range(10):
        turns.put("bob", number)
    served = []
    for _ in range(6):
        served.append(turns.take(0.0)[0])
        turns.spent(served[-1], 1.0)
    assert served.count("eve") == 3


def test_what_comes_from_nobody_is_first():
    turns = Turns()
    turns.put("bob", 1)
    turns.put(NOBODY, 2)
    assert all_of(turns) == [(NOBODY, 2), ("bob", 1)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9))))
def test_nothing_is_lost_and_each_peer_is_heard_in_order(rows):
    turns = Turns()
    for number, (peer, size) in enumerate(rows):
        turns.put(peer, number, size)
    assert (turns.count, turns.size_bytes) == (len(rows), sum(s for _, s in rows))
    assert turns.waiting("a") == (
        sum(p == "a" for p, _ in rows),
        sum(s for p, s in rows if p == "a"),
    )
    found = all_of(turns)
    for peer in "abc":
        mine = [number for p, number in found if p == peer]
        assert mine == [n for n, (p, _) in enumerate(rows) if p == peer]
    assert (turns.count, turns.size_bytes) == (0, 0)


def test_peers_without_number_are_forgotten():
    turns = Turns()
    for number in range(REMEMBERED + 100):
        turns.put(f"peer {number}", None)
        turns.take(0.0)
    assert len(turns._time_s) <= REMEMBERED


def test_who_waits_is_woken():
    turns = Turns()
    threading.Timer(0.05, turns.put, ("bob", 1)).start()
    assert turns.take(20.0) == ("bob", 1)


class Slow:
    """A machine that takes nothing until it is let."""

    topics = ("/x/1",)

    def __init__(self):
        self.seen, self.let = [], threading.Event()

    def step(self, now_s, event):
        self.let.wait(20)
        self.seen.append(event)
        return ()


def test_a_driver_keeps_little_of_a_flood_and_serves_others_meanwhile():
    slow = Slow()
    driver = Driver(slow, wires=None, note=None).start()
    for _ in range(1000):
        driver.post(Told("eve", "/x/1", bytes(1 << 20)))
        driver.post(Told("mal", "/x/1", b""))
    refused = driver.asked("eve", "/x/1", bytes(100))
    asked = driver.asked("bob", "/x/1", bytes(100))
    for peer in ("eve", "mal", "bob"):
        driver.post(Down(peer))  # such news are never lost
    assert driver._inbox.size_bytes <= MOST_BYTES_EACH + 100
    assert driver._inbox.waiting("mal")[0] == MOST_TOLD_EACH + 1
    slow.let.set()
    until_s = time.monotonic() + 20
    while driver._inbox.count and time.monotonic() < until_s:
        time.sleep(0.01)
    driver.close()
    assert asked.cancelled()  # nobody has answered
    places = {type(e): n for n, e in enumerate(slow.seen) if e_peer(e) == "bob"}
    assert 0 < places[Asked] < places[Down] < 12
    assert [e for e in slow.seen if isinstance(e, Down)].count(Down("eve")) == 1
    assert isinstance(refused.exception(0), PeerLostError)


def e_peer(event):
    return getattr(event, "peer", None)
