"""Every decoder of the NAT layer: exact, bounded, and no error but ProtocolError."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from p2p.nat.addresses import Address, Candidate
from p2p.nat.effects import Splice
from p2p.nat.grants import (
    Warden,
    encode_grant,
    encode_ticket,
    knock,
    read_grant,
    read_knock,
    read_ticket,
)
from p2p.nat.hello import hello, read_hello
from p2p.nat.kinds import Nat
from p2p.nat.offer import MAX_CERTIFICATE_BYTES, Offer, encode_offer, read_offer
from p2p.nat.whoami import encode_seen, read_seen

TOKEN = b"t" * 16
WARDEN = Warden(b"s" * 32)
PLACE, PLACE6 = Address("45.33.1.9", 4004), Address("2a0f:1::9", 65535)
GRANT = WARDEN.grant("a", (PLACE, PLACE6), 1e9)
OFFER = Offer(
    TOKEN,
    b"certificate",
    (Candidate("lan", PLACE), Candidate("observed", PLACE6)),
    Nat.SHIFTS,
    (Splice("relay", PLACE, GRANT.ticket(TOKEN)),),
)
CASES = {
    "offer": (read_offer, encode_offer, OFFER),
    "grant": (read_grant, encode_grant, GRANT),
    "ticket": (read_ticket, encode_ticket, GRANT.ticket(TOKEN)),
    "seen": (read_seen, encode_seen, PLACE6),
    "hello": (read_hello, lambda v: hello(v[0], dialer=v[1]), (TOKEN, True)),
    "knock": (
        read_knock,
        lambda v: knock(v[0], dialer=v[1]),
        (GRANT.ticket(TOKEN), False),
    ),
}
FREE = {"ticket"}  # of fixed length, every byte is free; the proof guards it


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_back(name):
    read, write, value = CASES[name]
    assert read(write(value)) == value


@pytest.mark.parametrize("name", CASES)
def test_a_changed_byte_is_refused_or_means_something_else(name):
    """One value, one encoding: what is accepted is written again as it was."""
    read, write, value = CASES[name]
    good = write(value)
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
            try:
                other = read(bad)
            except ProtocolError:
                continue
            assert other != value
            assert write(other) == bad


@pytest.mark.parametrize("name", sorted(set(CASES) - FREE))
def test_what_is_cut_or_too_long_is_refused(name):
    read, write, value = CASES[name]
    good = write(value)
    for bad in [good[:-1], good + b"\0", b"", good[:5], good * 50]:
        with pytest.raises(ProtocolError):
            read(bad)


@pytest.mark.parametrize("name", sorted(set(CASES) - FREE))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_noise_is_a_fault_of_the_protocol_and_nothing_else(name, data):
    read, write, value = CASES[name]
    good = write(value)
    noise = data.draw(st.binary(max_size=200))
    at = data.draw(st.integers(0, len(good)))
    for bad in (noise, good[:at] + noise + good[at + len(noise) :]):
        try:
            other = read(bad)
        except ProtocolError:
            continue
        assert write(other) == bad


def test_offers_are_bounded():
    huge = Offer(TOKEN, b"c" * (MAX_CERTIFICATE_BYTES + 1), ())
    with pytest.raises(ProtocolError):
        read_offer(encode_offer(huge))
    many = Offer(TOKEN, b"c", (Candidate("lan", PLACE),) * 9)
    with pytest.raises(ProtocolError):
        read_offer(encode_offer(many))
    with pytest.raises(ProtocolError, match="above 4096"):
        read_offer(bytes(5000))
    with pytest.raises(ProtocolError):
        read_offer(encode_offer(Offer(TOKEN, b"", ())))


def test_a_ticket_is_good_for_its_circuit_until_it_expires():
    leave = GRANT.ticket(TOKEN)
    assert WARDEN.passes(leave, GRANT.expires_s - 1)
    assert not WARDEN.passes(leave, GRANT.expires_s)
    assert not Warden(b"?" * 32).passes(leave, 1e9)


def test_no_changed_ticket_passes():
    good = encode_ticket(GRANT.ticket(TOKEN))
    for at in range(len(good)):
        for _ in range(3):
            flip = random.Random(at).randrange(1, 256)
            bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
            assert not WARDEN.passes(read_ticket(bad), 1e9)


def test_owners_do_not_share_keys():
    other = WARDEN.grant("b", (PLACE,), 1e9)
    assert other.owner != GRANT.owner
    assert other.key != GRANT.key
    assert "key" not in repr(GRANT)
