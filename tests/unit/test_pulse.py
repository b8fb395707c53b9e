"""Who is alive and where, told from peer to peer."""

import random
from dataclasses import replace

import pytest

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Failed,
    Note,
    Tell,
    Told,
    Up,
    Woken,
)
from p2p.members.card import MAX_BEATS, About, Beat, chain_of, follows, new_card
from p2p.members.gossip import Gossip, read_gossip
from p2p.members.news import BYTES_S, FANOUT, MESSAGE_BYTES, News
from p2p.members.pulse import TOPIC, Pulse, beat_s, silence_s
from p2p.members.roster import Roster
from tests.identity_cases import ANN, BOB, EVE, Wires, address, kinds

BOOT = b"bootboot"


def anyone(_peer):
    return True


def pulse(key, seed=0, member=anyone, about=None):
    about = about or About((address(key),))
    return Pulse(key, about, member, random.Random(f"{seed} {key.seed}"))


def mesh(count, loses=lambda: False, links=None):
    """Return wires between ``count`` members, each with each, or with ``links``."""
    keys = [Key(n.to_bytes(2, "big") * 16) for n in range(count)]
    machines = {key.peer: pulse(key) for key in keys}
    wires = Wires(machines, loses=loses)
    names = list(machines)
    for n, name in enumerate(names):
        wires.at(random.Random(n).random(), name, Woken())
    dice = random.Random(7)
    for name in names:
        others = names if links is None else dice.sample(names, links)
        wires.connect(*[(name, other) for other in others if name < other or links])
    return wires


def word(key, counter=0, index=0, seed=b"seed", boot=BOOT, about=None):
    links = chain_of(seed)
    card = new_card(key, boot, counter, links[0], about or About((address(key),)))
    return card, Beat(card.id, index, links[index])


def told(machine, now_s, *words, beats=(), wanted=(), by=BOB):
    body = Gossip(tuple(words), tuple(beats), tuple(wanted)).encode()
    return machine.step(now_s, Told(by.peer, TOPIC, body))


def test_members_see_each_other_and_their_addresses():
    wires = mesh(5)
    wires.run(5.0)
    for peer, machine in wires.machines.items():
        others = sorted(set(wires.machines) - {peer})
        assert machine.alive(5.0) == others
        assert all(machine.addresses(o)[0].endswith(o) for o in others)
    assert wires.faults == []


def test_one_that_dies_is_noticed_by_all_and_only_that_one():
    dice = random.Random(1)
    wires = mesh(6, loses=lambda: dice.random() < 0.2)
    wires.run(20.0)
    dead = list(wires.machines)[2]
    wires.dead.add(dead)
    wires.run(60.0)
    gone = kinds(wires.notes, "gone")
    assert {note.peer for _, _, note in gone} == {dead}
    assert len(gone) == 5
    assert 35.0 < min(at for at, _, _ in gone) <= max(at for at, _, _ in gone) < 45.0
    assert all(
        dead not in m.alive(60.0) for p, m in wires.machines.items() if p != dead
    )


def test_one_that_comes_back_is_alive_again_at_once():
    wires = mesh(4)
    wires.run(20.0)
    peer, machine = next(iter(wires.machines.items()))
    wires.dead.add(peer)
    wires.run(60.0)
    wires.dead.clear()
    others = [p for p in wires.machines if p != peer]
    wires.machines[peer] = pulse(machine.key, seed="reborn")  # counts from 0 again
    wires.connect(*[(peer, other) for other in others], at_s=60.0)
    wires.run(64.0)
    assert all(peer in wires.machines[other].alive(64.0) for other in others)
    assert wires.machines[peer].record(others[0]) is not None
    boots = {wires.machines[other].record(peer).boot for other in others}
    assert boots == {wires.machines[peer]._own.boot}
    assert not kinds(wires.notes, "twin")


def test_two_programs_with_one_key_are_noticed():
    wires = mesh(3)
    peer, *others = wires.machines
    wires.run(10.0)
    wires.machines["twin"] = pulse(wires.machines[peer].key, seed="twin")
    wires.connect(*[("twin", other) for other in others], at_s=10.0)
    wires.run(30.0)
    found = kinds(wires.notes, "twin")
    assert {note.peer for _, _, note in found} == {peer}
    assert {by for _, by, _ in found} >= {peer, "twin"}


def test_a_late_word_of_a_program_that_ended_is_no_twin():
    """Its successor overrules it, and overrules it again when it hears more."""
    successor, third = pulse(BOB), pulse(ANN)
    for counter in (5, 7):
        before = word(BOB, counter)
        notes = told(successor, 1.0, before, by=EVE)
        for said in (before, successor._own.word()):
            notes += told(third, 1.0, said, by=EVE)
        assert "twin" not in {n.kind for n in notes if isinstance(n, Note)}
        assert third.record(BOB.peer) == successor._own.card
    assert successor._own.card.counter == 8
    notes = told(successor, 2.0, word(BOB, 9), by=EVE)
    assert "twin" in {n.kind for n in notes if isinstance(n, Note)}


def test_what_a_member_says_of_itself_is_heard_by_all():
    wires = mesh(4)
    wires.run(10.0)
    peer, machine = next(iter(wires.machines.items()))
    new = About((), "2.0", "relay", True, False, 4002, 4003, 4004, 55)
    machine.say(new)
    wires.run(18.0)
    cards = [m.record(peer) for p, m in wires.machines.items() if p != peer]
    assert {card.about for card in cards} == {new}


def test_what_others_would_refuse_is_not_said():
    machine = pulse(ANN)
    with pytest.raises(ProtocolError, match="somebody else"):
        machine.say(About((address(BOB),)))
    assert machine.about == About((address(ANN),))


def test_news_of_strangers_is_not_kept():
    machine = pulse(ANN, member=lambda peer: peer == BOB.peer)
    told(machine, 1.0, word(BOB), word(EVE))
    assert machine.alive(1.0) == [BOB.peer]
    assert machine.record(EVE.peer) is None
    assert machine.addresses(EVE.peer) == ()


def test_who_is_no_member_any_more_is_forgotten():
    members = {BOB.peer}
    machine = pulse(ANN, member=members.__contains__)
    told(machine, 1.0, word(BOB))
    members.clear()
    machine.step(3.0, Woken())
    assert machine.record(BOB.peer) is None


def test_old_cards_and_beats_bring_nobody_back():
    machine = pulse(ANN)
    told(machine, 0.0, word(BOB, 5, 3))
    replays = [word(BOB, 4, 9), word(BOB, 5, 2), word(BOB, 5, 3)]
    for now_s in range(1, 40):
        told(machine, float(now_s), *replays, by=EVE)
    assert machine.alive(39.0) == []
    assert machine.record(BOB.peer).counter == 5
    told(machine, 39.5, word(BOB, 5, 4), by=EVE)
    assert machine.alive(39.5) == [BOB.peer]


def test_a_forged_beat_is_refused_by_name():
    machine = pulse(ANN)
    card, beat = word(BOB, 0, 3)
    told(machine, 0.0, (card, beat))
    for index, link in [
        (4, bytes(16)),
        (4, beat.link),
        (3, bytes(16)),
        (511, b"x" * 16),
    ]:
        forged = Beat(card.id, index, link)
        with pytest.raises(ProtocolError, match=f"forged sign of life of {BOB.peer}"):
            told(machine, 9.0, beats=[forged], by=EVE)
        with pytest.raises(ProtocolError, match="forged sign of life"):
            told(machine, 9.0, (card, forged), by=EVE)


def test_a_beat_is_checked_once_however_often_it_is_said():
    machine = pulse(ANN)
    card, _ = word(EVE)
    told(machine, 0.0, word(EVE))
    last = Beat(card.id, MAX_BEATS, chain_of(b"seed")[MAX_BEATS])
    with pytest.raises(ProtocolError, match="two beats of one card"):
        told(machine, 1.0, beats=[last, last], by=EVE)


def test_nothing_is_taken_from_a_message_with_one_forgery():
    machine = pulse(ANN)
    card, beat = word(BOB)
    with pytest.raises(ProtocolError):
        told(machine, 1.0, word(EVE), (card, Beat(beat.card, 2, bytes(16))))
    assert machine.alive(1.0) == []


def test_a_beat_of_an_unknown_card_asks_for_the_card():
    ann, bob = pulse(ANN), pulse(BOB)
    card, beat = word(EVE, index=2)
    told(bob, 0.0, (card, beat))
    effects = told(ann, 0.0, beats=[beat])
    (ask,) = [e for e in effects if isinstance(e, Tell)]
    assert read_gossip(ask.body) == Gossip(wanted=(card.id,))
    effects = bob.step(0.5, Told(ANN.peer, TOPIC, ask.body))
    (answer,) = [e for e in effects if isinstance(e, Tell)]
    assert read_gossip(answer.body) == Gossip(((card, beat),))
    ann.step(0.6, Told(BOB.peer, TOPIC, answer.body))
    assert ann.record(EVE.peer) == card


def test_silence_leads_to_a_question_and_then_to_the_end():
    machine = pulse(ANN)
    told(machine, 0.0, word(BOB), by=EVE)
    assert not [e for e in machine.step(15.0, Woken()) if isinstance(e, Ask)]
    (ask,) = [e for e in machine.step(16.1, Woken()) if isinstance(e, Ask)]
    assert (ask.peer, ask.topic, ask.body, ask.timeout_s) == (BOB.peer, TOPIC, b"", 5.0)
    lost = Failed(BOB.peer, ask.ticket, True, "timed out")
    notes = [e for e in machine.step(21.0, lost) if isinstance(e, Note)]
    assert [(note.kind, note.peer) for note in notes] == [("gone", BOB.peer)]


def test_an_answer_is_a_sign_of_life():
    machine, bob = pulse(ANN), pulse(BOB)
    told(machine, 0.0, bob._own.word(), by=EVE)
    (ask,) = [e for e in machine.step(16.0, Woken()) if isinstance(e, Ask)]
    (answer, *_) = bob.step(16.0, Asked(ANN.peer, TOPIC, ask.body, 9))
    assert isinstance(answer, Answer)
    effects = machine.step(16.1, Answered(BOB.peer, ask.ticket, answer.body))
    assert not [e for e in effects if isinstance(e, Note)]
    assert machine.alive(16.1) == [BOB.peer]


def test_only_a_sign_of_life_can_be_asked_for():
    with pytest.raises(ProtocolError, match="more than a sign of life"):
        pulse(ANN).step(0.0, Asked(BOB.peer, TOPIC, b"all", 1))


def test_one_that_changes_its_card_all_the_time_does_not_flood_others():
    machine = pulse(ANN)
    for counter in range(100):
        told(machine, 1.0, word(BOB, counter))
    assert machine.record(BOB.peer).counter == 11


def test_replies_are_given_once_a_tick():
    machine = pulse(ANN)
    told(machine, 0.0, word(BOB))
    mine = machine._own.id
    replies = [
        [e for e in told(machine, 0.1, wanted=[mine] * 64) if isinstance(e, Tell)]
        for _ in range(20)
    ]
    assert sum(map(len, replies)) == 1
    assert len(replies[0][0].body) < MESSAGE_BYTES


def test_the_roster_is_bounded_and_who_is_gone_longest_makes_room(monkeypatch):
    most = 64
    monkeypatch.setattr("p2p.members.roster.MAX_MEMBERS", most)
    roster = Roster()
    words = [fake(n) for n in range(most + 2)]
    for n, one in enumerate(words[:most]):
        assert roster.put(one, float(n))
    assert roster.put(words[-1], 0.0) is None
    for n in (7, 5):
        roster.entries[words[n][0].peer].state = "gone"
    assert roster.put(words[-1], 0.0)
    assert words[5][0].peer not in roster.entries
    assert words[7][0].peer in roster.entries
    assert len(roster.entries) == len(roster.by_id) == most


def test_two_cards_of_one_id_harm_nobody():
    roster = Roster()
    (bob, beat), (eve, _) = word(BOB), word(EVE)
    assert roster.put((bob, beat), 0.0)
    assert roster.put((eve, beat), 0.0) is None
    assert roster.put((bob, beat), 1.0)
    roster.forget(lambda peer: False)
    assert not roster.entries
    assert not roster.by_id


def fake(number):
    card, beat = WORD
    named = replace(card, peer=f"peer {number}")
    return named, Beat(number.to_bytes(8, "big"), 0, beat.link)


WORD = word(BOB)


def test_messages_stay_within_the_budget():
    news = News()
    big = About(tuple(f"/dns/{'a' * 100}/tcp/1/p2p/{BOB.peer}" for _ in range(8)))
    one = word(BOB, about=big)
    for number in range(2000):
        news.card(f"peer {number}")
        news.beat(f"other {number}")
    sizes = [len(news.gossip(lambda _: one).encode()) for _ in range(20)]
    assert max(sizes) <= MESSAGE_BYTES
    assert max(sizes) * FANOUT <= BYTES_S


def test_what_is_new_goes_first_and_who_is_forgotten_is_not_told():
    news = News()
    for number in range(500):
        news.card(f"peer {number}")
    news.gossip(lambda _: WORD)
    news.card("new")
    assert news.gossip(lambda peer: WORD if peer == "new" else None).words == (WORD,)
    assert news._cards == {"new": 3}
    assert news.gossip(lambda _: None) is None


def test_what_is_told_ends():
    news = News()
    news.card("a")
    news.beat("b")
    rounds = [news.gossip(lambda _: WORD) for _ in range(6)]
    assert [len(r.words) if r else 0 for r in rounds] == [1, 1, 1, 1, 0, 0]
    assert [len(r.beats) if r else 0 for r in rounds] == [1, 1, 0, 0, 0, 0]


def test_a_chain_of_beats_runs_one_way():
    links = chain_of(b"seed")
    beats = [Beat(b"c" * 8, n, link) for n, link in enumerate(links)]
    assert len(links) == len(set(links)) == MAX_BEATS + 1
    assert follows(beats[9], beats[0])
    assert follows(beats[MAX_BEATS], beats[1])
    assert not follows(Beat(b"c" * 8, 9, links[8]), beats[0])
    assert not follows(Beat(b"d" * 8, 9, links[9]), beats[0])


def test_a_card_is_renewed_when_its_beats_are_used_up():
    machine = pulse(ANN)
    for _ in range(MAX_BEATS + 1):
        machine._own.beat(0.0)
    card, beat = machine._own.word()
    assert (card.counter, beat.number) == (1, 0)


@pytest.mark.parametrize(
    ("members", "beat", "silence"), [(2, 2, 15), (200, 4, 20), (4096, 6, 30)]
)
def test_how_often_and_how_long(members, beat, silence):
    assert (beat_s(members), silence_s(members)) == (beat, silence)


@pytest.mark.slow
def test_a_day_of_heartbeats_leaves_no_trace():
    """43,200 heartbeats, 84 cards: what is held is what was held after an hour."""
    machine, other = pulse(ANN), pulse(BOB)
    machine.step(0.0, Up(BOB.peer))
    sizes = []
    for second in range(0, 86_400, 2):
        other._own.beat(float(second))
        card, beat = other._own.word()
        words = [(card, beat)] if beat.number < 3 else []
        told(machine, float(second), *words, beats=[beat])
        if second % 7200 == 3600:
            sizes.append(len(repr(vars(machine))))
    assert machine.alive(86_400.0) == [BOB.peer]
    assert machine.record(BOB.peer).counter == 43_200 // (MAX_BEATS + 1)
    assert max(sizes) < 1.1 * min(sizes), sizes  # bytes are shown longer or shorter


@pytest.mark.slow
def test_two_hundred_hear_news_in_log_n_rounds():
    count = 200
    wires = mesh(count, links=5)
    wires.run(6.0)
    teller = next(iter(wires.machines.values()))
    teller.say(About((), "news"))
    before, ticks, known = wires.told_bytes, 0, 0
    while known < count - 1:
        ticks += 1
        assert ticks <= 10, known  # log2(200) = 7.6; and it waits a tick or more
        wires.run(6.0 + ticks)
        known = sum(knows(m, teller) for m in wires.machines.values())
    assert (wires.told_bytes - before) / count / ticks < BYTES_S
    assert not kinds(wires.notes, "gone")
    assert all(len(m.alive(6.0 + ticks)) == count - 1 for m in wires.machines.values())


def knows(machine, teller):
    card = machine.record(teller.key.peer)
    return card is not None and card.about.program == "news"
