"""The machine: bounded messages, few bytes, and what it does with nonsense."""

import random
from dataclasses import replace

import pytest

from fedcore.errors import ProtocolError
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Note,
    Refuse,
    Tell,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.state.bodies import Count
from p2p.state.bodies import Note as Change
from p2p.state.chain import Kind
from p2p.state.messages import (
    MESSAGE_BYTES,
    Links,
    News,
    Prove,
    Pull,
    Sync,
    Trace,
    decode,
    encode,
)
from p2p.state.talks import TOPIC
from tests.state_cases import copied, count, counts, logs, pen_of, said
from tests.state_world import Faults, World


def named(name):
    return [(Kind.COUNT, Count(name, 1).encode())]


def big(size_bytes):
    return (Kind.NOTE, Change("d", bytes(size_bytes)).encode())


def asked(world, node, peer, message, ticket=77):
    return node.replica.step(
        world.now_s, Asked(peer.name, TOPIC, encode(message), ticket)
    )


def quiet(count, seed=1):
    """Return a world whose replicas know of each other, and are level."""
    world = World(seed, count)
    world.settle()
    world.run(world.now_s + 5)
    return world


def test_what_we_write_is_told_to_a_few_at_once():
    world = quiet(8)
    effects = world.nodes[0].replica.write(named("x"))
    assert [type(effect) for effect in effects] == [Tell] * 3
    assert len({effect.peer for effect in effects}) == 3
    news = decode(effects[0].body)
    assert [len(segment.entries) for segment in news.segments] == [1]
    assert len(effects[0].body) < 200


def test_what_is_too_much_for_a_message_is_fetched_piece_by_piece():
    world = quiet(3)
    node = world.nodes[0]
    effects = node.replica.write([big(60_000)] * 20)
    assert not [effect for effect in effects if isinstance(effect, Tell)]
    bodies = []
    carry_out = world.carry_out

    def watched(node, effects):
        effects = list(effects)
        bodies.extend(e.body for e in effects if isinstance(e, Ask | Answer | Tell))
        carry_out(node, effects)

    world.carry_out = watched
    world.settle()
    assert len(world.nodes[2].replica.view.notes["d"]) == 20
    assert 200_000 < max(map(len, bodies)) <= MESSAGE_BYTES


def test_level_replicas_exchange_some_hundred_bytes():
    world = quiet(2)
    before = world.sent_bytes
    world.run(world.now_s + 10)
    exchanges = 2 * 10  # of both
    assert 0 < world.sent_bytes - before <= exchanges * 1.4 * 120


def test_only_what_has_changed_since_is_told():
    world = quiet(5)
    node = world.nodes[0]
    node.replica.write(named("x"))
    node.replica._talks.greet(world.nodes[1].name)
    [ask] = node.replica.step(world.now_s, Up(world.nodes[1].name))
    sync = decode(ask.body)
    assert sync.since is not None
    assert [item.writer for item in sync.items] == [node.name]


def test_one_that_does_not_remember_is_told_all():
    world = quiet(3)
    one, other = world.nodes[:2]
    [answer] = asked(world, other, one, Sync(bytes(32), b"?" * 32, ()))
    assert decode(answer.body).whole
    world.write(one, named("x"))
    world.crash(other)
    world.start(other)
    world.settle()
    assert world.refused == []


def test_one_who_was_told_all_may_not_ask_again():
    world = quiet(2)
    one, other = world.nodes
    one.replica._talks._level.clear()
    one.replica.write(named("x"))
    one.replica._talks.greet(other.name)
    [ask] = one.replica.step(world.now_s, Up(other.name))
    body = encode(News(bytes(32), whole=True))
    with pytest.raises(ProtocolError, match="asks for all"):
        one.replica.step(world.now_s, Answered(other.name, ask.ticket, body))


@pytest.mark.parametrize(
    "message",
    [News(bytes(32)), Links([]), Links([bytes(32)])],
)
def test_answers_are_no_questions(message):
    world = quiet(2)
    one, other = world.nodes
    with pytest.raises(ProtocolError, match="no question"):
        asked(world, one, other, message)


@pytest.mark.parametrize(
    "message",
    [Sync(bytes(32), None, ()), News(bytes(32), whole=True), Links([bytes(32)])],
)
def test_only_news_is_told(message):
    world = quiet(2)
    one, other = world.nodes
    with pytest.raises(ProtocolError, match="what should be asked"):
        one.replica.step(world.now_s, Told(other.name, TOPIC, encode(message)))


def test_an_answer_to_another_question_is_refused():
    world = quiet(2)
    one, other = world.nodes
    one.replica._talks.greet(other.name)
    one.replica.write(named("x"))
    [ask] = one.replica.step(world.now_s, Up(other.name))
    with pytest.raises(ProtocolError, match="another question"):
        one.replica.step(
            world.now_s, Answered(other.name, ask.ticket, encode(Links([])))
        )
    assert one.replica.step(world.now_s, Answered(other.name, ask.ticket, b"")) == []


def test_after_a_failure_the_next_question_is_asked():
    world = quiet(3)
    one = world.nodes[0]
    one.replica.write(named("x"))
    for other in world.nodes[1:]:
        one.replica._talks.greet(other.name)
    [first] = one.replica.step(world.now_s, Up(world.nodes[1].name))
    assert one.replica.step(world.now_s, Up(world.nodes[1].name)) == []
    lost = Failed(first.peer, first.ticket, True, "gone")
    [second] = one.replica.step(world.now_s, lost)
    assert {first.peer, second.peer} == {node.name for node in world.nodes[1:]}


def test_one_that_claims_much_and_answers_nothing_does_not_keep_us_busy():
    world = quiet(3)
    one, liar, other = world.nodes
    more = replace(one.replica.logs.item(pen_of(40).writer), length=9)
    met = []
    for turn in range(8):
        one.replica._talks.greet(other.name)
        effects = asked(world, one, liar, Sync(bytes(32), None, [more]), turn)
        for effect in effects:
            while isinstance(effect, Ask):
                met.append(effect.peer)
                lost = Failed(effect.peer, effect.ticket, True, "too late")
                effect = next(iter(one.replica.step(world.now_s, lost)), None)
    assert met.count(other.name) >= 4


def test_a_trace_beyond_the_log_has_a_short_answer():
    world = quiet(2)
    one, other = world.nodes
    [answer] = asked(world, one, other, Trace(one.name, [1, 5]))
    assert decode(answer.body) == Links((one.replica.logs.link(one.name, 1),))
    [refusal] = asked(world, one, other, Prove(one.name, 5))
    assert isinstance(refusal, Refuse)
    [answer] = asked(world, one, other, Trace(pen_of(40).writer, [1]))
    assert decode(answer.body) == Links(())


def test_a_pull_of_an_unknown_writer_is_answered_with_nothing():
    world = quiet(2)
    one, other = world.nodes
    held = logs()
    item = held.item(pen_of(40).writer)
    [answer] = asked(world, one, other, Pull([item]))
    assert decode(answer.body) == News(one.replica.logs.root())


def test_a_push_that_comes_too_early_is_asked_for():
    world = quiet(2)
    one, other = world.nodes
    pen, held = pen_of(30), logs()
    said(held, pen, *counts([1, 2]))
    [late] = said(held, pen, count(3))
    [segment] = held.segments(pen.writer, 3)
    body = encode(News(bytes(32), (), [segment]))
    [ask] = one.replica.step(world.now_s, Told(other.name, TOPIC, body))
    assert [item.writer for item in decode(ask.body).items] == [pen.writer]
    assert late.before.length == 3


def test_a_refused_message_changes_nothing():
    world = quiet(2)
    one, other = world.nodes
    pens, held = [pen_of(30), pen_of(31)], logs()
    for pen in pens:
        said(held, pen, *counts([1, 2]))
    good, bad = (next(held.segments(pen.writer, 0)) for pen in pens)
    bad = replace(bad, entries=[*bad.entries[:-1], count(9)])
    root = one.replica.root()
    body = encode(News(bytes(32), (), [good, bad]))
    with pytest.raises(ProtocolError, match="did not sign"):
        one.replica.step(world.now_s, Told(other.name, TOPIC, body))
    assert one.replica.root() == root


def test_a_fork_is_told_even_if_what_came_with_it_is_refused():
    world = quiet(2)
    one, other = world.nodes
    pen, held = pen_of(30), logs()
    said(held, pen, count(1))
    twin = copied(held)
    said(held, pen, count(2))
    said(twin, pen, count(3))
    fork = held.fork(pen.writer, 3, twin.branch(pen.writer, 3))
    earlier = replace(fork, position=4)
    bad = replace(next(twin.segments(pen.writer, 0)), tag=b"?" * 16)
    with pytest.raises(ProtocolError, match="did not sign"):
        tell(one, other, News(bytes(32), [fork, earlier]))
    with pytest.raises(ProtocolError, match="another network"):
        tell(one, other, News(bytes(32), [fork, fork], [bad]))
    effects = one.replica.step(world.now_s, Down(other.name))
    notes = [effect for effect in effects if isinstance(effect, Note)]
    assert [(note.kind, note.peer) for note in notes] == [("fork", pen.writer)]
    assert one.replica.logs.item(pen.writer).fork == 3


def tell(node, peer, news):
    return node.replica.step(0.0, Told(peer.name, TOPIC, encode(news)))


def test_promises_without_deeds_are_not_asked_for_again():
    world = quiet(2)
    one, liar = world.nodes
    mine = replace(one.replica.logs.item(one.name), length=9)
    other = replace(one.replica.logs.item(pen_of(40).writer), length=9)
    empty = encode(News(bytes(32), left=[mine, other]))
    one.replica._talks.greet(liar.name)
    [ask] = asked(world, one, liar, Sync(bytes(32), None, [other]))[1:]
    for _ in range(2):  # a pull, and the greeting
        answered = Answered(liar.name, ask.ticket, empty)
        ask = next(iter(one.replica.step(world.now_s, answered)), None)
    assert ask is None


def test_any_bytes_are_refused_and_change_nothing():
    world = quiet(2)
    one, other = world.nodes
    draw, root = random.Random(1), one.replica.root()
    for _ in range(300):
        data = draw.randbytes(draw.randrange(200))
        with pytest.raises(ProtocolError):
            one.replica.step(world.now_s, Told(other.name, TOPIC, data))
    assert one.replica.root() == root


def test_it_wakes_again_and_again_at_no_fixed_time():
    world = quiet(2)
    waits = {
        effect.at_s - 100.0
        for _ in range(9)
        for effect in world.nodes[0].replica.step(100.0, Woken())
        if isinstance(effect, Wake)
    }
    assert all(0.75 <= wait <= 1.25 for wait in waits)
    assert len(waits) == 9


def test_a_lie_about_another_log_leads_nowhere():
    """One that claims to differ is asked for proof, and has none."""
    world = quiet(3)
    one, other = world.nodes[:2]
    item = replace(one.replica.logs.item(one.name), tag=b"?" * 16)
    effects = asked(world, one, other, Pull([item]))
    ask = next(effect for effect in effects if isinstance(effect, Ask))
    assert decode(ask.body) == Prove(one.name, 1)
    proof = encode(world.nodes[2].replica.logs.branch(world.nodes[2].name, 1))
    with pytest.raises(ProtocolError):
        one.replica.step(world.now_s, Answered(other.name, ask.ticket, proof))
    assert not one.replica.logs.by_writer[one.name].fork
    assert asked(world, one, other, Pull([item]))[-1].ticket > ask.ticket


@pytest.mark.slow
def test_fifty_replicas_agree_after_a_few_rounds():
    world = World(5, 50, Faults(delay_s=(0.001, 0.01)))
    for node in world.nodes:
        node.replica.write(named(f"of {node.number}"))
    world.settle(within_s=6.0)  # of one second each
    assert len(world.nodes[7].replica.view.counters) == 50
