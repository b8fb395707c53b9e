"""Where two logs part is found in few questions; and what roots say of the past."""

import pytest

from p2p.machine import Told
from p2p.state import changes as remembering
from p2p.state.changes import Changes
from p2p.state.encoding import Item
from p2p.state.exchange import segment_of
from p2p.state.messages import News, Prove, Trace, encode
from p2p.state.search import Search
from p2p.state.talks import TOPIC
from tests.state_cases import copied, counts, logs, merge, parting, pen_of, said
from tests.state_world import World

ANNA = pen_of(1)


@pytest.mark.parametrize(("trunk", "more"), [(0, 1), (1, 40), (700, 700), (1500, 1)])
def test_the_search_finds_where_logs_part(trunk, more):
    one = logs()
    said(one, ANNA, *counts(range(trunk)))
    other = copied(one)
    said(one, ANNA, *counts([7] * more))
    said(other, ANNA, *counts([8] * more))
    search, questions = Search(ANNA.writer, 0, trunk + 1 + more), 0
    while isinstance(search.question(), Trace):
        links = [other.link(ANNA.writer, n) for n in search.question().positions]
        search = search.narrowed(one, links)
        questions += 1
    assert search.question() == Prove(ANNA.writer, parting(one, other, ANNA.writer))
    assert questions <= 3


def test_a_search_ends_when_a_log_was_cut_meanwhile():
    one = logs()
    said(one, ANNA, *counts(range(50)))
    other = copied(one)
    said(one, ANNA, *counts([1]))
    said(other, ANNA, *counts([2]))
    search = Search(ANNA.writer, 0, 52)
    links = [other.link(ANNA.writer, n) for n in search.positions()]
    assert search.narrowed(one, links[:-1]) is None
    merge(one, other)
    assert search.narrowed(one, links) is None
    assert one.fork(ANNA.writer, 52, other.branch(ANNA.writer, 51)) is None


def test_branches_that_meet_are_found_out_by_one_exchange():
    world = World(3, 3)
    world.settle()
    world.run(world.now_s + 3)
    liar = pen_of(2)
    for at, number in ((0, 10), (1, 20)):
        twin = copied(world.nodes[at].replica.logs)
        news = News(
            bytes(32), (), [segment_of(n) for n in said(twin, liar, *counts([number]))]
        )
        told = Told(world.nodes[2].name, TOPIC, encode(news))
        world.nodes[at].replica.step(world.now_s, told)
    one, other = world.nodes[0], world.nodes[1]
    assert one.replica.root() != other.replica.root()
    one.replica._talks.greet(other.name)
    world.carry_out(one, one.replica._talks.next())
    world.run(world.now_s + 0.7)
    for node in (one, other):
        assert node.replica.logs.by_writer[liar.writer].fork.position == 2


def test_a_root_tells_what_has_changed_since(monkeypatch):
    monkeypatch.setattr(remembering, "ROOTS", 2)
    found, item = Changes(), Item("a", 1, b"")
    found.pin(b"r0")
    found.note("a", None)
    found.note("a", item)
    found.pin(b"r1")
    found.note("b", None)
    assert found.since(b"r0") == {"a": None, "b": None}
    assert found.since(b"r1") == {"b": None}
    assert found.since(b"never") is None
    found.pin(b"r2")
    assert not found.knows(b"r0")
    assert found.since(b"r2") == {}


def test_what_is_too_long_ago_is_forgotten():
    found = Changes()
    found.pin(b"r")
    for number in range(remembering.CHANGES + 1):
        found.note(str(number), None)
    assert found.since(b"r") is None
