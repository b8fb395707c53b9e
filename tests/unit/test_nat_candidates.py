"""Which addresses are offered, and which of a stranger's are dialled."""

import ipaddress

import pytest

from p2p.nat.addresses import Address, Candidate, seen_from
from p2p.nat.candidates import dialable, interfaces, own_candidates

HOME = (ipaddress.ip_interface("192.168.1.5/24"),)
ALONE = (ipaddress.ip_interface("127.0.0.1/8"),)
MINE = (Candidate("observed", Address("45.33.1.7", 4001)),)


def of(*hosts, port=4001, kind="public"):
    return [Candidate(kind, Address(host, port)) for host in hosts]


def dialled(*hosts, mine=(), here=HOME, port=4001, kind="public"):
    found = dialable(of(*hosts, port=port, kind=kind), mine, here)
    return [c.address.host for c in found]


def test_own_addresses_come_best_first_and_once():
    here = (*HOME, ipaddress.ip_interface("45.33.1.9/24"))
    seen = [Address("45.33.1.9", 4001), Address("45.33.1.7", 54001)]
    found = own_candidates(here, 4001, seen, [Address("45.33.1.7", 4001)])
    assert [(c.kind, str(c.address)) for c in found] == [
        ("lan", "192.168.1.5:4001"),
        ("public", "45.33.1.9:4001"),
        ("mapped", "45.33.1.7:4001"),
        ("observed", "45.33.1.7:54001"),
    ]


@pytest.mark.parametrize(
    ("told", "reached", "found"),
    [
        ("10.0.0.5", "45.33.1.7", "45.33.1.7"),  # it does not know its public address
        ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
        ("10.0.0.5", "192.168.1.7", "10.0.0.5"),
        ("10.0.0.5", None, "10.0.0.5"),
        ("45.33.1.7", "45.33.1.9", "45.33.1.7"),  # it knows better
        ("127.0.0.1", "45.33.1.9", "127.0.0.1"),
    ],
)
def test_where_a_server_is_that_may_not_know_it(told, reached, found):
    assert seen_from(Address(told, 4003), reached) == Address(found, 4003)


@pytest.mark.parametrize(
    "host",
    [
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "240.0.0.1",
        "169.254.1.1",
        "ff02::1",
        "fe80::1",
        "::",
        str(ipaddress.ip_address("::ffff:10.0.0.1")),
    ],
)
def test_addresses_that_name_no_one_machine_are_never_dialled_or_offered(host):
    assert dialled(host) == []
    here = (ipaddress.ip_interface(host),)
    assert own_candidates(here, 4001) == ()


def test_loopback_is_dialled_only_by_who_has_nothing_else():
    assert dialled("127.0.0.1", "::1") == []
    assert dialled("127.0.0.1", here=ALONE) == ["127.0.0.1"]


def test_private_addresses_are_dialled_inside_our_networks_only():
    asked = ["192.168.1.9", "192.168.2.9", "10.0.0.1", "100.64.0.1", "fd00::1"]
    assert dialled(*asked) == ["192.168.1.9"]
    assert dialled("192.168.1.255", "192.168.1.0") == []  # everybody in it


def test_who_shares_our_router_may_be_in_another_part_of_the_network():
    seen = of("45.33.1.7", kind="observed", port=54001)
    theirs = [*of("10.7.0.9", kind="lan"), *seen]
    found = dialable(theirs, MINE, HOME)
    assert [c.address.host for c in found] == ["10.7.0.9", "45.33.1.7"]


def test_ports_of_the_system_are_never_dialled():
    assert dialled("45.33.1.9", port=25) == []
    assert dialled("45.33.1.9", port=1023) == []
    assert dialled("45.33.1.9", port=1024) == ["45.33.1.9"]


def test_a_list_of_victims_is_cut_short():
    victims = [f"45.33.2.{i}" for i in range(1, 200)]
    assert dialled(*victims) == victims[:3]
    ports = [Candidate("public", Address("45.33.2.1", p)) for p in range(2000, 3000)]
    assert len(dialable(ports * 2, (), HOME)) == 8


def test_an_address_of_ours_is_not_dialled():
    assert dialable(MINE, MINE, HOME) == ()


def test_this_machine_has_some_address():
    found = interfaces()
    assert found
    assert len({i.ip.is_loopback for i in found}) == 1
