"""What was not signed like this is never taken for something else."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError, ProtocolError
from fedcore.wire import Reader
from p2p.identity.address import MAX_ADDRESSES, check_address
from p2p.identity.armour import armoured, opened
from p2p.identity.chain import read_chain
from p2p.identity.invites import read_invite
from p2p.identity.keys import peer_of, public_of
from p2p.identity.network import check_founding
from p2p.identity.openings import check_opening, open_subkey
from p2p.identity.places import pack_places, read_places
from p2p.identity.removals import Removal, Said, read_removal, standing
from p2p.machine import Answer, Answered, Ask, Asked, Up
from p2p.members.card import About, Beat, chain_of, new_card, read_card
from p2p.members.door import TOPIC
from p2p.members.gossip import Gossip, read_gossip
from p2p.members.hello import read_hello
from tests.identity_cases import (
    ANN,
    BOB,
    EVE,
    FOUNDER,
    NET,
    NOW,
    ROOT,
    SECRET,
    WRITER,
    address,
    door,
    joined,
    line_of,
    text,
)

LINE = line_of(2)
DEEP = open_subkey(LINE[2][1], LINE[2][0], WRITER, NOW)
LINKS = chain_of(b"seed")
ABOUT = About((address(ANN),), "1.2", "relay", True, False, 1, 0, 65535, 7)
CARD = new_card(ANN, b"bootboot", 300, LINKS[0], ABOUT)
GOSSIP = Gossip(((CARD, Beat(CARD.id, 2, LINKS[2])),), (Beat(b"c" * 8, 3, b"l" * 16),))
REMOVAL = Removal("peer", ANN.peer, frozenset([EVE.peer, BOB.peer]), {ANN.peer: 300})
keys = st.binary(min_size=32, max_size=32)


def mutations(data):
    """Yield ``data`` with each byte changed in three ways, cut, and longer."""
    for at, byte in enumerate(data):
        for other in (byte ^ 1, byte ^ 0x80, 0 if byte else 255):
            yield data[:at] + bytes([other]) + data[at + 1 :]
        yield data[:at]
        yield data[:at] + data[at + 1 :]
        yield data[:at] + b"\0" + data[at:]
    yield data + b"\0"


def accepted(read, data):
    """Return the mutations of ``data`` that are taken for anything at all."""
    read(data)
    found = set()
    for changed in mutations(data):
        try:
            read(changed)
        except ProtocolError:
            continue
        found.add(changed)
    return found - {data}


def test_no_changed_byte_of_a_founding_or_a_card_is_accepted():
    assert accepted(check_founding, ROOT) == set()
    assert accepted(read_card, CARD.raw) == set()


@pytest.mark.slow
def test_no_changed_byte_of_an_opening_is_accepted():
    """But cut off after a whole step, it is the opening of who came before."""
    grant = read_invite(text()).grant
    before = {opening for _, opening in LINE}
    assert accepted(read_chain, grant) == {ROOT}
    assert accepted(lambda data: check_opening(data, NET), joined(ANN)) == {ROOT}
    assert accepted(lambda data: check_opening(data, NET), DEEP) == before


@pytest.mark.slow
def test_no_changed_byte_of_an_invite_is_accepted_even_with_the_right_sum():
    """Addresses are not signed: whoever passes an invite on may name others."""
    payload = opened(text(to=(address(FOUNDER),)))
    whole = read_invite(armoured(payload))
    signed = {"addresses": whole.addresses}
    for changed in mutations(payload):
        try:
            found = read_invite(armoured(changed))
        except ConfigError:
            continue
        assert replace(found, **signed) == whole or changed == payload


def test_what_is_not_signed_has_one_form_only():
    for read, data in [
        (read_gossip, GOSSIP.encode()),
        (read_removal, REMOVAL.encode()),
    ]:
        for changed in mutations(data):
            try:
                found = read(changed)
            except ProtocolError:
                continue
            assert found.encode() == changed


def exchange():
    """Return the doors of two members, and all that they say to each other."""
    first, second = sorted([ANN, BOB], key=lambda key: key.peer)
    doors = [door(first, joined(first)), door(second, joined(second), seed=1)]
    doors[1].step(0.0, Up(first.peer))
    (hello, *_) = doors[0].step(0.0, Up(second.peer))
    (answer, *_) = doors[1].step(0.0, Asked(first.peer, TOPIC, hello.body, 1))
    answered = Answered(second.peer, hello.ticket, answer.body)
    (proof, *_) = doors[0].step(0.0, answered)
    return doors, hello, answer, proof


@pytest.mark.slow
def test_no_changed_byte_of_a_proof_admits_anyone():
    doors, _, _, proof = exchange()
    first, listener = doors[0].key, doors[1]
    remembered = dict(listener._asked)
    for number, body in enumerate(mutations(proof.body)):
        listener._asked = dict(remembered)
        now_s = number * 6.0  # not too often
        listener._asked[first.peer] = (now_s, *remembered[first.peer][1:])
        effects = listener.step(now_s, Asked(first.peer, TOPIC, body, 1))
        assert not any(isinstance(e, Answer) for e in effects)
        assert not listener.members()


@pytest.mark.slow
def test_no_changed_byte_of_an_answer_leads_to_a_proof():
    doors, hello, answer, _ = exchange()
    peer, talk = next(iter(doors[0]._talks.items()))
    for body in mutations(answer.body):
        talk.ticket, talk.proved, talk.due_s = hello.ticket, None, 1e9
        effects = doors[0].step(0.0, Answered(peer, hello.ticket, body))
        assert not any(isinstance(e, Ask) for e in effects)


def test_no_changed_byte_of_a_hello_is_answered():
    doors, hello, _, _ = exchange()
    first = doors[0].key
    head = len(hello.body) - 65  # who knows the network may speak another version
    for number, body in enumerate(mutations(hello.body)):
        if body[:head] != hello.body[:head]:
            continue
        asked = Asked(first.peer, TOPIC, body, 1)
        effects = doors[1].step(100 + number * 6.0, asked)
        assert not any(isinstance(e, Answer) for e in effects)


READERS = [
    read_hello,
    read_card,
    read_gossip,
    read_removal,
    read_chain,
    check_founding,
    lambda data: check_opening(data, NET),
]


@given(st.binary(max_size=300), st.sampled_from(READERS))
@settings(max_examples=30, deadline=None)
def test_garbage_raises_protocol_errors_only(data, read):
    with pytest.raises(ProtocolError):
        read(data + b"\xff")


@given(st.integers(0, 10**9), st.sampled_from([GOSSIP.encode(), REMOVAL.encode()]))
@settings(max_examples=40, deadline=None)
def test_many_changes_raise_protocol_errors_only(seed, data):
    dice = random.Random(seed)
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 9)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    for read in (read_gossip, read_removal):
        try:
            found = read(bytes(changed))
        except ProtocolError:
            continue
        assert found.encode() == bytes(changed)


@given(st.text(max_size=400))
@settings(max_examples=40, deadline=None)
def test_any_text_is_an_invite_or_a_config_error(line):
    for spelled in (line, "fed1:" + line):
        with pytest.raises(ConfigError):
            read_invite(spelled)


@given(keys)
@settings(max_examples=50, deadline=None)
def test_a_peer_id_and_its_key_are_one(public):
    assert public_of(peer_of(public)) == public


@given(st.binary(max_size=400))
@settings(max_examples=30, deadline=None)
def test_armour_keeps_every_payload(payload):
    assert opened(armoured(payload)) == payload
    assert opened(armoured(payload).upper()) == payload


places = st.builds(
    lambda host, port, hops: f"/ip4/{host}/tcp/{port}" + "/p2p-circuit".join(hops),
    st.ip_addresses(v=4),
    st.integers(1, 65535),
    st.lists(
        st.sampled_from([f"/p2p/{k.peer}" for k in (ANN, BOB, EVE, FOUNDER)]),
        min_size=1,
        max_size=2,
    ),
)


@given(st.lists(places, max_size=MAX_ADDRESSES))
@settings(max_examples=30, deadline=None)
def test_addresses_come_back(found):
    packed = pack_places(FOUNDER.peer, [check_address(a) for a in found])
    assert read_places(Reader(packed), FOUNDER.peer) == tuple(found)


PEOPLE = [check_opening(ROOT, NET)]
PEOPLE += [check_opening(opening, NET) for _, opening in LINE[1:]]
PEOPLE += [
    check_opening(joined(k, r, o, i, s), NET)
    for k, r, o, i, s in [
        (ANN, "admin", ROOT, FOUNDER, SECRET),
        (BOB, "peer", ROOT, FOUNDER, SECRET),
        (EVE, "peer", LINE[1][1], LINE[1][0], WRITER),
    ]
]
NAMES = [("peer", one.peer) for one in PEOPLE]
NAMES += [("invite", one.invite) for one in PEOPLE[1:]]
some = st.sampled_from([one.peer for one in PEOPLE])
removals = st.builds(
    lambda name, spared, kept: Removal(*name, frozenset(spared), kept),
    st.sampled_from(NAMES),
    st.lists(some, max_size=3),
    st.dictionaries(some, st.integers(0, 4), max_size=3),
)
sayings = st.builds(Said, st.sampled_from(PEOPLE), st.integers(1, 4), removals)


@given(st.lists(sayings, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_removals_commute_and_repeat_without_effect(said, dice):
    again = [*said, *said[:3]]
    dice.shuffle(again)
    one, other = standing(said), standing(again)
    for person in PEOPLE:
        assert one.why(person) == other.why(person)
        assert one.kept(person) == other.kept(person)


@given(st.lists(sayings, max_size=8))
@settings(max_examples=30, deadline=None)
def test_nobody_sends_the_founder_away_and_only_admins_send(said):
    result = standing(said)
    assert result.why(PEOPLE[0]) is None
    admins = [one for one in said if one.author.role == "admin"]
    ranks = {one.author.depth for one in admins}
    for person in PEOPLE:
        if result.why(person) and person.role == "admin":
            assert min(ranks) < person.depth


@given(removals)
@settings(max_examples=50, deadline=None)
def test_removals_come_back(removal):
    assert read_removal(removal.encode()) == removal
