"""Kinds of NAT, from what two public hosts saw."""

import pytest

from p2p.nat.addresses import Address
from p2p.nat.kinds import Nat, likely, nat_of, outlook
from p2p.nat.whoami import Sighting

LOCAL = Address("192.168.1.5", 4001)


def seen(*places, local=LOCAL):
    return [
        Sighting(Address(f"45.33.1.{i}", 4003), local, Address(*place))
        for i, place in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        ([], Nat.UNKNOWN),
        ([("45.33.1.7", 4001)], Nat.UNKNOWN),
        ([("45.33.1.7", 4001), ("45.33.1.7", 4001)], Nat.KEEPS),
        ([("45.33.1.7", 54001), ("45.33.1.7", 54001)], Nat.SHIFTS),
        ([("45.33.1.7", 4001), ("45.33.1.7", 4002)], Nat.SYMMETRIC),
        ([("45.33.1.7", 4001), ("45.33.1.8", 4001)], Nat.SYMMETRIC),
        ([("192.168.1.5", 4001)], Nat.OPEN),
    ],
)
def test_kinds(places, kind):
    assert nat_of(seen(*places)) is kind


def test_one_host_asked_twice_is_no_second_witness():
    one = seen(("45.33.1.7", 4001))
    assert nat_of([*one, *one]) is Nat.UNKNOWN


def test_ipv6_says_nothing_of_those_who_have_ipv4_alone():
    open6 = seen(("2a0f:1::7", 4001), local=Address("2a0f:1::7", 4001))
    assert nat_of(open6) is Nat.OPEN
    assert nat_of([*open6, *seen(("45.33.1.7", 4001))]) is Nat.UNKNOWN
    shifts = seen(("45.33.1.7", 54001), ("45.33.1.7", 54001))
    assert nat_of([*open6, *shifts]) is Nat.SHIFTS


def test_likely_is_the_same_from_both_sides():
    for a in Nat:
        for b in Nat:
            assert likely(a, b) == likely(b, a)
    assert not likely(Nat.SYMMETRIC, Nat.SYMMETRIC)
    assert not likely(Nat.SYMMETRIC, Nat.KEEPS)
    assert likely(Nat.SYMMETRIC, Nat.OPEN)
    assert likely(Nat.SHIFTS, Nat.KEEPS)


def test_the_outlook_names_what_to_expect():
    assert "every kind" in outlook(Nat.OPEN)
    assert "a relay serves" in outlook(Nat.SYMMETRIC)
    assert "all but" in outlook(Nat.SHIFTS)
    assert "UDP" in outlook(Nat.KEEPS, udp=False)
    assert "UDP" not in outlook(Nat.KEEPS, udp=True)
