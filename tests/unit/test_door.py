"""Two peers that meet prove to each other that they belong, and nobody else does."""

import random

import pytest

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.identity.network import found
from p2p.identity.openings import open_subkey
from p2p.machine import Answered, Ask, Asked, Failed, Refuse, Told, Up
from p2p.members.door import MAX_TALKS, PATIENCE_S, REFUSED_RETRY_S, TOPIC, Door
from p2p.members.hello import WELCOME, Preamble
from p2p.members.judging import Policy
from tests.identity_cases import (
    ANN,
    BOB,
    DAY,
    EVE,
    FOUNDER,
    NET,
    NOW,
    ROOT,
    WRITER,
    Wires,
    door,
    joined,
    kinds,
)

KEYS = {key.peer: key for key in (ANN, BOB, EVE, FOUNDER)}


def meet(*doors, until_s=30.0):
    """Let all ``doors`` meet, each with each."""
    machines = {d.key.peer: d for d in doors}
    wires = Wires(machines)
    names = sorted(machines)
    wires.connect(*[(a, b) for a in names for b in names if a < b])
    wires.run(until_s)
    return wires


def reasons(wires):
    found = kinds(wires.notes, "turned-away")
    return sorted((KEYS[peer].peer, note.reason) for _, peer, note in found)


def test_members_admit_each_other_once():
    ann, bob = door(ANN, joined(ANN)), door(BOB, joined(BOB, "relay"), seed=1)
    wires = meet(ann, bob)
    assert {p: o.role for p, o in ann.members().items()} == {BOB.peer: "relay"}
    assert {p: o.role for p, o in bob.members().items()} == {ANN.peer: "peer"}
    notes = kinds(wires.notes, "admitted")
    assert sorted(peer for _, peer, _ in notes) == sorted([ANN.peer, BOB.peer])
    assert [note.program for _, _, note in notes] == ["1.0", "1.0"]
    assert len(wires.asks) == 2  # a hello and a proof, and two answers


def test_five_members_all_admit_each_other():
    keys = [Key(bytes([n]) * 32) for n in range(20, 25)]
    doors = [door(key, joined(key), seed=n) for n, key in enumerate(keys)]
    meet(*doors)
    assert {len(d.members()) for d in doors} == {4}


def test_a_second_key_for_writing_changes_nothing():
    opening = open_subkey(joined(ANN), ANN, WRITER, NOW)
    ann, bob = door(ANN, opening), door(BOB, joined(BOB), seed=1)
    meet(ann, bob)
    assert bob.members()[ANN.peer].writer == WRITER.peer


def test_the_larger_id_waits_and_then_begins_itself():
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    late = door(second, joined(second))
    assert [type(e) for e in late.step(0.0, Up(first.peer))] != [Ask]
    effects = late.step(PATIENCE_S, Up(first.peer))
    assert isinstance(effects[0], Ask)
    assert effects[0].peer == first.peer


def test_who_does_not_know_the_network_learns_nothing():
    other = found("digits", EVE, NOW, bytes(16))
    stranger = door(EVE, other.encode(), network=other.network)
    wires = meet(door(ANN, joined(ANN)), stranger)
    assert {reason for _, reason in reasons(wires)} == {"network", "refused us"}
    secrets = [bytes.fromhex(NET), FOUNDER.public, b"digits", joined(ANN)]
    assert len(wires.asks) == 1
    assert not any(secret in wires.asks[0][2] for secret in secrets)


def test_a_stolen_opening_is_of_no_use():
    thief = door(EVE, joined(EVE))
    thief.opening = joined(BOB)
    ann = door(ANN, joined(ANN), seed=1)
    wires = meet(ann, thief)
    assert EVE.peer not in ann.members()
    assert (ANN.peer, "forged") in reasons(wires)
    said = [note.words for _, peer, note in wires.notes if peer == ANN.peer]
    assert any(f"shows the opening of {BOB.peer}" in words for words in said)


def test_a_door_does_not_open_with_another_keys_opening():
    with pytest.raises(ProtocolError, match="belongs to another key"):
        door(ANN, joined(BOB))


def test_a_recorded_hello_is_worth_nothing():
    """Whoever plays back all that ann said to bob is not admitted as ann."""
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    bob = door(second, joined(second), seed=1)
    wires = meet(door(first, joined(first)), bob)
    hello, proof = (body for asker, _, body in wires.asks if asker == first.peer)
    fresh = door(second, joined(second), seed=2)
    for listener in (bob, fresh):
        listener.step(99.0, Up(first.peer))
        answers = [
            listener.step(100.0 + n, Asked(first.peer, TOPIC, body, n))[0]
            for n, body in enumerate([hello, proof])
        ]
        assert [type(e).__name__ for e in answers] == ["Answer", "TurnedAway"]
    assert not fresh.members()


def test_a_hello_for_one_is_no_hello_for_another():
    """Eve passes on to bob what ann says to her, and is refused."""
    ann, bob = door(ANN, joined(ANN)), door(BOB, joined(BOB), seed=1)
    effects = [*ann.step(0.0, Up(EVE.peer)), *ann.step(9.0, Up(EVE.peer))]
    (hello,) = [e.body for e in effects if isinstance(e, Ask)]
    effects = bob.step(9.0, Asked(EVE.peer, TOPIC, hello, 1))
    assert effects[1] == Refuse(1, "here is another network")


@pytest.mark.parametrize("wall", [NOW + DAY + 3600, NOW + 2 * DAY - 1])
def test_clocks_may_differ_by_a_day(wall):
    ann, bob = door(ANN, joined(ANN)), door(BOB, joined(BOB), seed=1, wall=wall)
    meet(ann, bob)
    assert set(ann.members()) == {BOB.peer}
    assert set(bob.members()) == {ANN.peer}


def test_an_expired_invite_names_both_times():
    late = NOW + 3 * DAY
    ann, bob = (
        door(ANN, joined(ANN), wall=late),
        door(BOB, joined(BOB), seed=1, wall=late),
    )
    wires = meet(ann, bob)
    assert not ann.members()
    assert not bob.members()
    words = next(note.words for _, _, note in wires.notes if note.reason == "expired")
    assert "expired on 2023-11-15 22:13 UTC" in words
    assert "its clock shows 2023-11-17 22:13 UTC, ours 2023-11-17 22:13 UTC" in words
    assert words.endswith("ask for a new invite")


def test_a_wrong_clock_is_named():
    ann, bob = (
        door(ANN, joined(ANN)),
        door(BOB, joined(BOB), seed=1, wall=NOW + 5 * DAY),
    )
    wires = meet(ann, bob)
    words = [note.words for _, peer, note in wires.notes if peer == BOB.peer]
    assert any("one of the two is wrong, set it" in w for w in words)


def test_members_that_are_known_do_not_expire():
    late = NOW + 90 * DAY
    policy = Policy(known=lambda peer: True)
    ann = door(ANN, joined(ANN), policy, wall=late)
    bob = door(BOB, joined(BOB), policy, seed=1, wall=late)
    meet(ann, bob)
    assert set(ann.members()) == {BOB.peer}
    assert set(bob.members()) == {ANN.peer}


def test_who_was_sent_away_stays_out_and_leaves_at_once():
    gone = set()
    policy = Policy(banned=lambda opening: "evicted" if opening.peer in gone else None)
    ann, bob = door(ANN, joined(ANN), policy), door(BOB, joined(BOB), seed=1)
    meet(ann, bob)
    assert BOB.peer in ann.members()
    assert ann.review() == []
    gone.add(BOB.peer)
    (note,) = ann.review()
    assert (note.reason, note.words, note.peer) == ("removed", "evicted", BOB.peer)
    assert not ann.members()
    wires = meet(door(ANN, joined(ANN), policy), door(BOB, joined(BOB), seed=1))
    assert set(reasons(wires)) == {(ANN.peer, "removed"), (BOB.peer, "refused us")}


def test_an_allow_list_admits_only_whom_it_names():
    policy = Policy(allowed=[BOB.peer])
    ann = door(ANN, joined(ANN), policy)
    meet(ann, door(BOB, joined(BOB), seed=1), door(EVE, joined(EVE), seed=2))
    assert set(ann.members()) == {BOB.peer}


@pytest.mark.parametrize(
    ("preamble", "words"),
    [
        (Preamble("9.1", 2, 3), "(9.1) is newer and speaks protocols 2 to 3"),
        (Preamble("0.0", 0, 0), "(0.0) is older and speaks protocols 0 to 0"),
    ],
)
def test_other_versions_are_told_what_to_update(preamble, words):
    body = preamble.encode() + b"something that only they understand"
    effects = door(ANN, joined(ANN)).step(0.0, Asked(BOB.peer, TOPIC, body, 7))
    assert effects[0].reason == "version"
    assert words in effects[0].words
    assert effects[1] == Refuse(7, effects[0].words)


def test_who_tries_too_often_waits_a_minute():
    ann = door(ANN, joined(ANN))
    tries = [ann.step(1.0, Asked(EVE.peer, TOPIC, b"x", n)) for n in range(13)]
    assert all(len(effects) == 2 for effects in tries[:12])
    assert tries[12] == [Refuse(12, "too many attempts; wait a minute")]
    assert len(ann.step(1.0, Asked(BOB.peer, TOPIC, b"x", 13))) == 2
    assert len(ann.step(62.0, Asked(EVE.peer, TOPIC, b"x", 14))) == 2


def test_two_programs_with_one_key_are_noticed():
    bob = door(BOB, joined(BOB))
    twins = [door(ANN, joined(ANN), seed=n) for n in (5, 6)]
    wires = Wires({BOB.peer: bob})
    for turn, twin in enumerate([twins[0], twins[1], twins[0]]):
        wires.machines[ANN.peer] = twin
        twin._talks.clear()
        wires.connect((ANN.peer, BOB.peer), at_s=100.0 * turn)
        wires.run(100.0 * turn + 50)
        wires.cut(ANN.peer, BOB.peer)
        assert len(kinds(wires.notes, "twin")) == (turn == 2)
    words = kinds(wires.notes, "twin")[0][2].words
    assert f"two programs run with the key of {ANN.peer}: stop one" in words


def test_a_peer_with_our_own_key_is_noticed():
    effects = door(ANN, joined(ANN)).step(0.0, Asked(ANN.peer, TOPIC, b"", 1))
    assert effects[0].kind == "twin"
    assert isinstance(effects[1], Refuse)


def test_a_lost_answer_is_asked_for_again():
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    lossy = door(first, joined(first))
    (ask, *_) = lossy.step(0.0, Up(second.peer))
    lost = Failed(second.peer, ask.ticket, True, "timed out")
    effects = lossy.step(10.0, lost)
    assert [type(e).__name__ for e in effects] == ["Wake"]
    assert effects[0].at_s == 12.0
    again = lossy.step(12.0, Up(second.peer))
    assert again[0].body != ask.body  # a fresh challenge


def test_a_refusal_is_told_and_tried_again_later():
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    machine = door(first, joined(first))
    (ask, *_) = machine.step(0.0, Up(second.peer))
    effects = machine.step(1.0, Failed(second.peer, ask.ticket, False, "no"))
    assert (effects[0].reason, effects[0].words) == (
        "refused us",
        "it refused us: no",
    )
    assert effects[1].at_s == 1.0 + REFUSED_RETRY_S


def test_strange_answers_admit_nobody():
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    for body in (b"", WELCOME, b"\xff" * 5000, Preamble("1").encode() + b"\1"):
        machine = door(first, joined(first))
        (ask, *_) = machine.step(0.0, Up(second.peer))
        effects = machine.step(1.0, Answered(second.peer, ask.ticket, body))
        assert effects[0].kind == "turned-away"
        assert not machine.members()


def test_a_late_proof_is_refused_without_blame():
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    listener, speaker = door(second, joined(second)), door(first, joined(first), seed=1)
    listener.step(0.0, Up(first.peer))
    (hello, *_) = speaker.step(0.0, Up(second.peer))
    (answer, *_) = listener.step(0.0, Asked(first.peer, TOPIC, hello.body, 1))
    (proof, *_) = speaker.step(0.0, Answered(second.peer, hello.ticket, answer.body))
    late = listener.step(61.0, Asked(first.peer, TOPIC, proof.body, 2))
    assert isinstance(late[0], Refuse)
    assert not listener.members()


def test_the_door_is_asked_and_never_told():
    with pytest.raises(ProtocolError, match="where one asks"):
        door(ANN, joined(ANN)).step(0.0, Told(BOB.peer, TOPIC, b""))


def test_memory_is_bounded_by_the_number_of_peers():
    ann = door(ANN, joined(ANN))
    ann._talks = dict.fromkeys(range(MAX_TALKS), ann._talks)
    with pytest.raises(ProtocolError, match="has no place"):
        ann._meet(0.0, BOB.peer)


def test_it_takes_the_random_numbers_of_the_system():
    args = ROOT, Policy(), random.SystemRandom(), lambda: NOW, "1.0"
    assert Door(FOUNDER, NET, *args).boot != Door(FOUNDER, NET, *args).boot
