"""What a driver promises to the machine that it runs, with real threads."""

import itertools
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError, StorageError
from p2p.driver import MOST_OPEN_EACH, Driver
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Failed,
    Note,
    Refuse,
    Told,
    Wake,
    Woken,
)

WAIT_S = 20.0


@dataclass
class Loop:
    """Wires that lead to drivers in this process, by peer."""

    me: str
    others: dict = field(default_factory=dict)
    done: list = field(default_factory=list)

    def ask(self, ask):
        if ask.peer in self.others:
            return self.others[ask.peer].asked(self.me, ask.topic, ask.body)
        future = Future()
        future.set_exception(PeerLostError("nobody there"))
        return future

    def tell(self, tell):
        if tell.peer in self.others:
            self.others[tell.peer].post(Told(self.me, tell.topic, tell.body))

    def do(self, effect, post):
        self.done.append(effect)


@dataclass
class Reply:
    """Answers in the words of ``act`` and remembers everything."""

    act: object
    topics: tuple = ("/echo/1",)
    seen: list = field(default_factory=list)
    threads: set = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def step(self, now_s, event):
        with self.changed:
            self.seen.append(event)
            self.threads.add(threading.get_ident())
            self.changed.notify_all()
        return self.act(now_s, event)

    def wait_for(self, kind):
        with self.changed:
            found = lambda: [e for e in self.seen if isinstance(e, kind)]  # noqa: E731
            assert self.changed.wait_for(found, WAIT_S)
            return found()


@pytest.fixture
def running():
    drivers = []

    def start(act, me="a", note=lambda note: None, **others):
        machine = Reply(act)
        drivers.append(Driver(machine, Loop(me, others), note).start())
        return drivers[-1], machine

    yield start
    for driver in drivers:
        driver.close()
        assert driver.failure is None


def echo(now_s, event):
    return [Answer(event.ticket, event.body)] if isinstance(event, Asked) else ()


def silent(now_s, event):
    return ()


def test_a_question_is_answered(running):
    server, _ = running(echo, "server")
    asking, machine = running(silent, server=server)
    asking.call(lambda now_s: (None, [Ask("server", "/echo/1", b"hi", 5, 1.0)]))
    assert machine.wait_for(Answered) == [Answered("server", 5, b"hi")]


def test_a_broken_rule_refuses_and_names(running):
    def strict(now_s, event):
        if isinstance(event, Asked):
            raise ProtocolError("too long")
        return ()

    notes = []
    server, _ = running(strict, "server", notes.append)
    asking, machine = running(silent, server=server)
    asking.call(lambda now_s: (None, [Ask("server", "/echo/1", b"hi", 5, 1.0)]))
    assert machine.wait_for(Failed) == [Failed("server", 5, lost=False, why="too long")]
    assert notes == [Note("refused", "too long", "a")]


def test_a_lost_peer_fails_the_question(running):
    asking, machine = running(silent)
    asking.call(lambda now_s: (None, [Ask("gone", "/echo/1", b"", 1, 1.0)]))
    assert machine.wait_for(Failed) == [
        Failed("gone", 1, lost=True, why="nobody there")
    ]


def test_the_alarm_rings_once_at_its_time(running):
    rung = []

    def wakeful(now_s, event):
        if isinstance(event, Woken):
            rung.append(now_s)
            return [Wake(now_s + 0.05)] if len(rung) < 3 else ()
        return ()

    driver, _ = running(wakeful)
    deadline = time.monotonic() + WAIT_S
    while len(rung) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert driver.call(lambda now_s: (len(rung), ())) == 3
    assert all(b - a >= 0.05 for a, b in itertools.pairwise(rung))


def test_every_event_comes_in_one_thread(running):
    driver, machine = running(echo)
    futures = [driver.asked(f"p{i}", "/echo/1", b"%d" % i) for i in range(200)]
    assert [f.result(WAIT_S) for f in futures] == [b"%d" % i for i in range(200)]
    assert len(machine.threads) == 1


def test_a_peer_may_have_so_many_questions_open(running):
    driver, _ = running(silent)
    for _ in range(MOST_OPEN_EACH):
        driver.asked("greedy", "/echo/1", b"")
    with pytest.raises(PeerLostError, match="wait for answers already"):
        driver.asked("greedy", "/echo/1", b"").result(WAIT_S)
    assert not driver.asked("modest", "/echo/1", b"").done()


def test_answered_questions_make_room(running):
    driver, _ = running(echo)
    for _ in range(3 * MOST_OPEN_EACH):
        assert driver.asked("busy", "/echo/1", b"x").result(WAIT_S) == b"x"


def test_a_call_returns_or_raises(running):
    driver, _ = running(silent)
    assert driver.call(lambda now_s: (3, ())) == 3

    def wrong(now_s):
        raise ConfigError("no such peer")

    with pytest.raises(ConfigError, match="no such peer"):
        driver.call(wrong)


def test_a_call_that_was_given_up_never_runs(running):
    """Who hears that the node is busy asks again: twice would be once too often."""
    driver, _ = running(silent)
    begun, go_on, ran = threading.Event(), threading.Event(), []

    def hold(now_s):
        begun.set()
        return go_on.wait(WAIT_S), ()

    holding = threading.Thread(target=driver.call, args=(hold,))
    holding.start()
    assert begun.wait(WAIT_S)
    with pytest.raises(PeerLostError, match="too busy"):
        driver.call(lambda now_s: (ran.append(1), ()), timeout_s=0.01)
    go_on.set()
    holding.join()
    assert driver.call(lambda now_s: (list(ran), ())) == []


def test_a_call_that_breaks_the_node_tells_its_caller_at_once():
    driver = Driver(Reply(silent), Loop("a"), lambda note: None).start()
    with pytest.raises(PeerLostError, match="has failed"):
        driver.call(lambda now_s: 1 / 0)
    driver.close()
    assert isinstance(driver.failure, ZeroDivisionError)


def test_the_end_refuses_what_is_open(running):
    driver, _ = running(silent)
    open_ = driver.asked("p", "/echo/1", b"")
    driver.close()
    assert open_.cancelled()
    with pytest.raises(PeerLostError):
        driver.call(lambda now_s: (1, ()), timeout_s=1.0)


def test_a_question_after_the_end_ends_at_once(running):
    driver, _ = running(silent)
    driver.close()
    assert driver.asked("p", "/echo/1", b"").cancelled()


def test_foreign_effects_go_to_the_wires(running):
    driver, _ = running(silent)
    driver.call(lambda now_s: (None, ["dial"]))
    assert driver.wires.done == ["dial"]


def test_a_fault_of_ours_ends_the_node_and_is_kept():
    def broken(now_s, event):
        raise ZeroDivisionError("a bug")

    driver = Driver(Reply(broken), Loop("a"), lambda note: None).start()
    assert driver.ended.wait(WAIT_S)
    assert isinstance(driver.failure, ZeroDivisionError)


def test_a_disk_that_fails_ends_nothing(running, monkeypatch):
    monkeypatch.setattr("p2p.driver.DISK_S", 0.05)
    notes, rung, full = [], [], [True]

    def broken(now_s, event):
        rung.append(isinstance(event, Woken))
        if full[0]:
            raise StorageError("no space left")
        return echo(now_s, event)

    driver, machine = running(broken, note=notes.append)
    with pytest.raises(ProtocolError, match="disk"):
        driver.asked("p", "/echo/1", b"").result(WAIT_S)
    assert set(notes) == {Note("disk", "no space left")}
    full[0] = False
    assert driver.asked("p", "/echo/1", b"x").result(WAIT_S) == b"x"
    machine.seen.clear()
    machine.wait_for(Woken)  # the alarm that could not be heard rings again


def test_an_alarm_without_a_pause_keeps_nobody_waiting(running):
    driver, _ = running(lambda now_s, e: [Wake(now_s), *echo(now_s, e)])
    assert driver.asked("p", "/echo/1", b"x").result(WAIT_S) == b"x"


def test_refusals_carry_the_reason(running):
    def no(now_s, event):
        return [Refuse(event.ticket, "not now")] if isinstance(event, Asked) else ()

    driver, _ = running(no)
    with pytest.raises(ProtocolError, match="not now"):
        driver.asked("p", "/echo/1", b"").result(WAIT_S)
