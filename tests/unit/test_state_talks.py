"""With whom a replica talks: a peer that is mute holds up nobody."""

import random

from p2p.machine import Answered, Ask, Failed, Told, Up, Woken
from p2p.state.messages import News, Sync, decode, encode
from p2p.state.talks import EXCHANGES, PATIENCE_S, TOPIC, Talks
from tests.state_cases import logs
from tests.state_world import World

NOBODY_NEW = encode(News(bytes(32)))


def asks(effects):
    return [effect for effect in effects if isinstance(effect, Ask)]


def talker(count, seed=1):
    """Return a replica that knows of peers, none of which has said anything."""
    replica = World(seed, 1).nodes[0].replica
    names = [f"peer {number}" for number in range(count)]
    found = [ask for name in names for ask in asks(replica.step(0.0, Up(name)))]
    return replica, names, found


def test_one_exchange_at_a_time_with_those_who_answer():
    replica, _, [first] = talker(3)
    assert not asks(replica.step(PATIENCE_S / 2, Woken()))
    [second] = asks(replica.step(0.6, Answered(first.peer, first.ticket, NOBODY_NEW)))
    assert second.peer != first.peer
    assert isinstance(decode(second.body), Sync)


def test_who_does_not_answer_holds_up_nobody():
    replica, names, found = talker(8)
    for number in range(20):
        found += asks(replica.step(PATIENCE_S * number, Woken()))
    assert len(found) == EXCHANGES
    assert len({ask.peer for ask in found}) == EXCHANGES
    late = found[-1]
    found += asks(replica.step(30.0, Answered(late.peer, late.ticket, NOBODY_NEW)))
    assert len(found) == EXCHANGES + 1
    assert found[-1].peer in names


def test_who_is_mute_is_greeted_only_now_and_then_until_it_speaks():
    replica, names, [ask] = talker(2)
    replica.step(10.0, Failed(ask.peer, ask.ticket, True, "no answer"))
    talks = replica._talks
    assert talks.mute == {ask.peer}
    drawn = greeted(talks, 400)
    assert 10 < drawn.count(ask.peer) < 80  # a sixteenth
    replica.step(11.0, Told(ask.peer, TOPIC, NOBODY_NEW))
    assert not talks.mute
    talks.down(names[0])
    talks.down(names[1])
    talks.greet_any()
    assert not talks._greet


def greeted(talks, times):
    found = []
    for _ in range(times):
        talks._greet.clear()
        talks.greet_any()
        found += talks._greet
    return found


def test_where_all_are_mute_they_are_greeted_as_before():
    talks = Talks(logs(), random.Random(3), timeout_s=1.0)
    talks.peers |= {"ann", "ben"}
    talks.mute |= {"ann", "ben"}
    assert set(greeted(talks, 20)) == {"ann", "ben"}
