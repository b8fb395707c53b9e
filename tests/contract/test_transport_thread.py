"""The mesh in a thread of its own, used from many others."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.libp2p.thread import MeshThread
from p2p.machine import Down, Up
from p2p.transport import MAX_BODY_BYTES
from tests.contract.wires import quick

pytestmark = pytest.mark.slow


@contextmanager
def pair():
    before = set(threading.enumerate())
    with MeshThread(quick()) as a, MeshThread(quick()) as b:
        assert a.connect(b.addresses(), timeout_s=10).result(15) == b.me
        yield a, b
    left = set(threading.enumerate()) - before
    assert not any("libp2p" in thread.name for thread in left)


def echo(peer, body):
    future = Future()
    future.set_result(peer.encode() + b":" + body)
    return future


def test_many_threads_ask_and_each_gets_its_own_answer():
    with ThreadPoolExecutor(4) as workers, pair() as (a, b):
        b.serve("/echo/1", lambda peer, body: workers.submit(lambda: body[::-1]))

        def one(i):
            return a.ask(b.me, "/echo/1", str(i).encode(), 20).result(30)

        with ThreadPoolExecutor(16) as askers:
            answers = list(askers.map(one, range(300)))
        assert answers == [str(i).encode()[::-1] for i in range(300)]


def test_errors_arrive_as_our_own():
    def refuse(peer, body):
        future = Future()
        future.set_exception(ProtocolError("the moon is wrong"))
        return future

    with pair() as (a, b):
        b.serve("/no/1", refuse)
        b.serve("/never/1", lambda peer, body: Future())
        with pytest.raises(ProtocolError, match=f"{b.me}.*the moon is wrong"):
            a.ask(b.me, "/no/1", b"", 5).result(10)
        with pytest.raises(ProtocolError, match="does not serve"):
            a.ask(b.me, "/nope/1", b"", 5).result(10)
        with pytest.raises(PeerLostError, match="did not answer"):
            a.ask(b.me, "/never/1", b"", 0.2).result(10)
        with pytest.raises(PeerLostError, match="not connected"):
            a.ask("nobody", "/no/1", b"", 5).result(10)
        with pytest.raises(ProtocolError, match="at most"):
            a.tell(b.me, "/no/1", bytes(MAX_BODY_BYTES + 1))
        with pytest.raises(PeerLostError, match="nobody could be reached"):
            a.connect([], timeout_s=1).result(10)


def test_an_asker_may_give_up_and_the_mesh_goes_on():
    asked, given_up = threading.Event(), threading.Event()

    def never(peer, body):
        future = Future()
        asked.set()
        return future

    with pair() as (a, b):
        b.serve("/never/1", never)
        b.serve("/echo/1", echo)
        question = a.ask(b.me, "/never/1", b"", 100)
        question.add_done_callback(lambda _: given_up.set())
        assert asked.wait(10)
        assert question.cancel()
        assert given_up.wait(10)
        assert a.ask(b.me, "/echo/1", b"x", 5).result(10) == a.me.encode() + b":x"


def test_who_works_on_an_answer_for_too_long_does_not_stop_the_mesh(monkeypatch):
    monkeypatch.setattr("p2p.libp2p.thread.ANSWER_S", 0.2)

    def begun(peer, body):
        future = Future()
        future.set_running_or_notify_cancel()
        return future

    with pair() as (a, b):
        b.serve("/slow/1", begun)
        b.serve("/echo/1", echo)
        with pytest.raises(PeerLostError, match="nobody answered in time"):
            a.ask(b.me, "/slow/1", b"", 10).result(15)
        assert a.ask(b.me, "/echo/1", b"x", 10).result(15).endswith(b":x")


def test_a_mesh_that_is_too_busy_says_so(monkeypatch):
    monkeypatch.setattr("p2p.libp2p.thread.CLOSE_S", 0.2)
    with MeshThread(quick()) as mesh:
        free = threading.Event()
        mesh._soon(lambda: free.wait(10))
        with pytest.raises(PeerLostError, match="too busy"):
            mesh.peers()
        free.set()
        monkeypatch.undo()
        assert list(mesh.peers()) == []


def test_watchers_paths_and_tellings_work_from_outside():
    told, events, gone = Future(), [], threading.Event()

    def hear(peer, body):
        told.set_result((peer, body))
        return echo(peer, body)

    def follow(event):
        events.append(event)
        if isinstance(event, Down):
            gone.set()

    with pair() as (a, b):
        a.watch(follow)
        b.serve("/tell/1", hear)
        a.tell(b.me, "/tell/1", b"hello")
        assert told.result(10) == (a.me, b"hello")
        path = a.path(b.me)
        assert f"{path.address}/p2p/{b.me}" == b.addresses()[0]
        assert list(a.peers()) == [b.me]
        b.disconnect(a.me)
        assert gone.wait(10)
        assert events[0] == Up(b.me)
        assert a.path(b.me) is None


def test_a_handler_may_ask_back_in_its_own_thread():
    with ThreadPoolExecutor(2) as workers, pair() as (a, b):
        a.serve("/echo/1", echo)

        def relay(peer, body):
            return workers.submit(
                lambda: b.ask(peer, "/echo/1", body, 5).result(10) + b"!"
            )

        b.serve("/relay/1", relay)
        answer = a.ask(b.me, "/relay/1", b"x", 10).result(15)
        assert answer == b.me.encode() + b":x!"


def test_what_is_under_way_at_the_end_is_lost_and_nothing_hangs():
    with pair() as (a, b):
        b.serve("/never/1", lambda peer, body: Future())
        questions = [a.ask(b.me, "/never/1", b"", 100) for _ in range(50)]
    done, waiting = wait(questions, 10)
    assert not waiting
    for question in done:
        assert isinstance(question.exception(), PeerLostError)
    with pytest.raises(PeerLostError, match="does not run"):
        a.ask(b.me, "/never/1", b"", 1).result(5)
    with pytest.raises(PeerLostError):
        a.peers()
    a.close()


def test_a_mesh_that_cannot_listen_says_so_at_once():
    with MeshThread(quick()) as first:
        taken = first.addresses()[0].rpartition("/p2p/")[0]
        with pytest.raises(ConfigError, match="choose another"):
            MeshThread(quick(listen=(taken,))).start()
    with pytest.raises(PeerLostError, match="does not run"):
        MeshThread(quick()).peers()


def test_cancelled_questions_are_cancelled():
    with pair() as (a, b):
        b.serve("/never/1", lambda peer, body: Future())
        question = a.ask(b.me, "/never/1", b"", 100)
        assert question.cancel()
        with pytest.raises(CancelledError):
            question.result(1)
