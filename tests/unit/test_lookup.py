"""The parts of a lookup: records that cannot be forged, tables without floods."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError, ProtocolError
from p2p.content.buckets import SPARES, Buckets
from p2p.content.cid import cid_of
from p2p.content.lookup import MAX_SEARCHES, Lookup
from p2p.content.notices import Notices
from p2p.content.records import (
    MAX_LIFE_S,
    MAX_RECORDS,
    SKEW_S,
    TOPIC,
    K,
    Record,
    check_record,
    decode_found,
    decode_question,
    decode_record,
    encode_found,
    encode_have,
    encode_near,
    encode_record,
    encode_who,
    make_record,
    place_of,
    target_of,
)
from p2p.content.search import Search
from p2p.identity.keys import Key
from p2p.machine import Answer, Answered, Ask, Asked, Failed, Refuse, Told, Up

KEYS = [Key(bytes([i]) * 32) for i in range(1, 120)]
PEERS = [key.peer for key in KEYS]
CID = cid_of(b"x")
NOW = 1_900_000_000


def record(key=KEYS[0], made_s=NOW, life_s=3600, cid=CID, network="net"):
    return make_record(key, network, cid, made_s, life_s)


def lookup(key=KEYS[0], wall=NOW):
    return Lookup(key, "net", random.Random(0), lambda: wall)


def ask(machine, peer, body, now_s=0.0):
    (effect,) = [
        e
        for e in machine.step(now_s, Asked(peer, TOPIC, body, 1))
        if isinstance(e, Answer | Refuse)
    ]
    return effect


def test_a_record_comes_back_as_it_was():
    one = record()
    assert decode_record(encode_record(one)) == one
    check_record(one, "net", NOW)


def test_no_changed_byte_of_a_record_is_believed():
    data = encode_record(record())
    for at in range(len(data)):
        for bit in (at % 8, 7):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            with pytest.raises(ProtocolError):
                check_record(decode_record(bytes(bad)), "net", NOW)


@pytest.mark.parametrize(
    ("age_s", "life_s", "believed"),
    [
        (0, 3600, True),
        (-SKEW_S, 3600, True),  # a clock that is a day ahead
        (-SKEW_S - 1, 3600, False),
        (3600 + SKEW_S, 3600, True),
        (3601 + SKEW_S, 3600, False),
        (0, MAX_LIFE_S + 1, False),
    ],
)
def test_a_record_is_believed_in_its_time_only(age_s, life_s, believed):
    one = record(made_s=NOW - age_s, life_s=life_s)
    if believed:
        check_record(one, "net", NOW)
    else:
        with pytest.raises(ProtocolError):
            check_record(one, "net", NOW)


def test_a_record_of_another_network_is_not_believed():
    with pytest.raises(ProtocolError, match="did not sign"):
        check_record(record(network="other"), "net", NOW)


def test_a_record_is_taken_from_its_provider_only():
    machine = lookup()
    body = encode_have(record(KEYS[1]))
    with pytest.raises(ProtocolError, match="another peer"):
        machine.step(0.0, Asked(PEERS[2], TOPIC, body, 1))
    assert len(machine.notices) == len(machine.buckets) == 0
    assert ask(machine, PEERS[1], body) == Answer(1, b"")
    peers, records = decode_found(ask(machine, PEERS[2], encode_who(CID)).body)
    assert [r.peer for r in records] == [PEERS[1]]
    assert peers == [PEERS[1]]


def test_an_older_record_does_not_replace_a_newer_one_and_zero_life_takes_back():
    notices = Notices(0)
    assert notices.keep(record(made_s=NOW), 0.0) == ""
    assert "newer" in notices.keep(record(made_s=NOW - 1, life_s=0), 0.0)
    assert len(notices.of(CID, 0.0)) == 1
    assert notices.keep(record(made_s=NOW + 1, life_s=0), 0.0) == ""
    assert len(notices) == 0


def test_records_expire_by_the_keepers_own_clock():
    notices = Notices(0)
    notices.keep(record(made_s=NOW - 80_000, life_s=100), 7.0)  # a clock a day behind
    assert len(notices.of(CID, 106.9)) == 1
    assert notices.of(CID, 107.0) == []
    notices.expire(107.0)
    assert len(notices) == 0


def fake(peer, cid, made_s=0):
    return Record(cid, peer, made_s, 100, b"")


def test_records_are_bounded_by_blob_by_peer_and_in_all():
    notices = Notices(0, per_blob=3, per_peer=4, in_all=6)
    cids = sorted((cid_of(bytes([i])) for i in range(9)), key=target_of)
    for peer in PEERS[:5]:
        notices.keep(fake(peer, cids[0]), 0.0)
    assert len(notices) == 3
    for cid in cids:
        notices.keep(fake(PEERS[0], cid), 0.0)
    assert len(notices) == 6
    # Full: what is nearer to place 0 takes the room of what is farthest from it.
    assert "far away" in notices.keep(fake(PEERS[7], cids[8]), 0.0)
    assert notices.keep(fake(PEERS[7], cids[1]), 0.0) == ""
    assert len(notices) == 6
    assert notices.of(cids[3], 0.0) == []


GOOD = [
    encode_near(5),
    encode_who(CID),
    encode_have(record()),
    encode_found(PEERS[:K], [record(key) for key in KEYS[:MAX_RECORDS]]),
]


@settings(max_examples=40)
@given(st.sampled_from(GOOD), st.data())
def test_every_message_has_one_form(good, data):
    at = data.draw(st.integers(0, len(good)))
    change = data.draw(st.binary(max_size=3))
    bad = good[:at] + change + good[at + data.draw(st.integers(0, 3)) :]
    for decode, encode in [
        (decode_question, encode_question),
        (decode_found, lambda found: encode_found(*found)),
    ]:
        try:
            value = decode(bad)
        except ProtocolError:
            continue
        assert encode(value) == bad


def encode_question(value):
    if isinstance(value, Record):
        return encode_have(value)
    return encode_who(value) if isinstance(value, str) else encode_near(value)


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_noise_is_refused_and_changes_nothing(noise):
    machine = lookup()
    for event in (Asked(PEERS[1], TOPIC, noise, 1), Told(PEERS[1], TOPIC, noise)):
        try:
            machine.step(0.0, event)
        except ProtocolError:
            assert len(machine.buckets) == 0


def test_an_answer_that_names_a_peer_twice_is_refused():
    with pytest.raises(ProtocolError, match="twice"):
        decode_found(encode_found([PEERS[0]] * 2, []))
    with pytest.raises(ProtocolError, match="twice"):
        decode_found(encode_found([], [record()] * 2))


def far_from(me, count):
    """Return peers that share bucket 255 of ``me``: half of all."""
    top = [p for p in PEERS if (place_of(p) ^ place_of(me)) >> 255]
    assert len(top) > count
    return top[:count]


def test_a_full_bucket_keeps_its_old_peers_while_they_answer():
    buckets = Buckets(PEERS[0])
    peers = far_from(PEERS[0], K + 10)
    for now, peer in enumerate(peers):
        buckets.seen(peer, now)
    assert set(buckets.nearest(0, 99)) == set(peers[:K])
    buckets.failed(peers[0])
    assert buckets.nearest(place_of(peers[0]), 99)[-1] == peers[0]  # suspected: last
    buckets.failed(peers[0])
    assert set(buckets.nearest(0, 99)) == {*peers[1:K], peers[-1]}  # the newest spare
    for peer in peers[1:K]:  # when the spares are used up, the rest stays
        for _ in range(3):
            buckets.failed(peer)
    assert len(buckets) == K
    assert K - SPARES < K


def test_a_peer_does_not_know_itself():
    buckets = Buckets(PEERS[0])
    buckets.seen(PEERS[0], 0.0)
    assert len(buckets) == 0
    with pytest.raises(ProtocolError):
        buckets.seen("nobody", 0.0)


def test_a_search_comes_nearer_and_ends_with_the_nearest():
    target = 12345
    ranked = sorted(PEERS, key=lambda p: place_of(p) ^ target)
    search = Search("me", target, ranked[-3:], paths=1, close=4)
    asked = []
    while not search.over:
        for peer in search.next():
            asked.append(peer)
            at = ranked.index(peer)
            search.answered(peer, ranked[max(0, at - 30) : at])
    assert search.nearest(4) == ranked[:4]
    assert len(asked) == len(set(asked)) == search.asks < 30
    assert search.hops == 5  # 118 -> 88 -> 58 -> 28 -> 0, and the seed itself


def test_paths_share_no_peer_and_a_liar_spoils_his_own_only():
    target = 777
    ranked = sorted(PEERS, key=lambda p: place_of(p) ^ target)
    liar, honest = ranked[60], ranked[61]
    search = Search("me", target, [liar, honest], paths=2, close=4)
    first = search.next()
    assert set(first) == {liar, honest}
    search.answered(liar, [])  # a dead end
    search.answered(honest, ranked[:8])
    while not search.over:
        for peer in search.next():
            search.answered(peer, [])
    assert search.nearest(4) == ranked[:4]


def test_a_search_among_dead_peers_ends():
    search = Search("me", 1, PEERS, paths=2, close=8)
    while not search.over:
        for peer in search.next():
            search.failed(peer)
    assert search.asks == 96
    assert search.nearest(8) == []


def test_an_answer_of_another_peer_or_of_no_ask_is_passed_over():
    machine = lookup()
    machine.step(0.0, Up(PEERS[1]))
    asks = [e for e in machine.find(0.0, CID) if isinstance(e, Ask)]
    ticket = asks[0].ticket
    empty = encode_found([], [])
    assert machine.step(1.0, Answered(PEERS[2], ticket, empty)) == []
    assert machine.step(1.0, Answered(PEERS[1], 999, empty)) == []
    assert machine.step(1.0, Failed(PEERS[1], 999, True, "")) == []
    note, found = machine.step(1.0, Answered(PEERS[1], ticket, b"noise"))
    assert (note.kind, note.peer) == ("bad-answer", PEERS[1])
    assert (found.peers, found.over) == ((), True)
    assert machine.step(1.0, Answered(PEERS[1], ticket, empty)) == []


def test_forged_and_expired_records_in_an_answer_are_passed_over():
    machine = lookup()
    machine.step(0.0, Up(PEERS[1]))
    (ask_,) = [e for e in machine.find(0.0, CID) if isinstance(e, Ask)]
    forged = Record(CID, PEERS[2], NOW, 3600, bytes(64))
    old = record(KEYS[3], made_s=NOW - SKEW_S - 4000)
    other = record(KEYS[4], cid=cid_of(b"y"))
    back = record(KEYS[5], life_s=0)
    mine, good = record(KEYS[0]), record(KEYS[6])
    answer = encode_found([], [forged, old, other, back, mine, good])
    found = machine.step(1.0, Answered(PEERS[1], ask_.ticket, answer))
    assert [e.peers for e in found] == [[PEERS[6]], ()]
    assert [e.over for e in found] == [False, True]


def test_searches_and_provided_blobs_are_bounded(monkeypatch):
    monkeypatch.setattr("p2p.content.lookup.MAX_QUEUED", 20)
    monkeypatch.setattr("p2p.content.lookup.MAX_PROVIDED", 100)
    machine = lookup()
    machine.step(0.0, Up(PEERS[1]))
    cids = [cid_of(bytes([i])) for i in range(200)]
    for cid in cids[: MAX_SEARCHES + 20 - 1]:  # one more is its own place
        machine.find(0.0, cid)
    with pytest.raises(ConfigError, match="searches wait"):
        machine.find(0.0, cids[-1])
    machine = lookup()
    for cid in cids[:100]:
        machine.provide(0.0, cid)
    with pytest.raises(ConfigError, match="provided already"):
        machine.provide(0.0, cids[-1])
