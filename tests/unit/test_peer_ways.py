"""What a peer tells of itself, and what it listens on."""

import ipaddress
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from clients.peer.home import KEY, keep_ports, make, with_ports
from clients.peer.ports import ALL4, any_hosts, free_port, is_free
from clients.peer.serving import relay_hosts, serve_as_relay
from clients.peer.settings import PeerSettings, Relay
from clients.peer.ways import outside, relays_among, worth_telling
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError
from p2p.identity.keys import Key
from p2p.mapping.way import Mapping
from p2p.members.addresses import AddressBook
from p2p.members.card import About, new_card
from p2p.nat.addresses import Address

ME, RELAY = (Key(bytes([i]) * 32).peer for i in (1, 2))


def at(host):
    return f"/ip{6 if ':' in host else 4}/{host}/tcp/4001/p2p/{ME}"


def through(host):
    return f"/ip4/{host}/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{ME}"


def test_the_way_through_a_relay_is_told_however_many_interfaces_there_are():
    lan = [at(f"172.{n}.0.1") for n in range(17, 27)]
    told = worth_telling([*lan, at("45.33.1.7"), through("45.33.1.10")], 4)
    assert told == [lan[0], lan[1], at("45.33.1.7"), through("45.33.1.10")]


def test_what_leads_only_here_is_told_when_there_is_nothing_else():
    here = [at("127.0.0.1"), at("::1")]
    assert worth_telling(here, 8) == here
    more = [*here, through("127.0.0.1"), at("192.168.1.7")]
    assert worth_telling(more, 8) == [at("192.168.1.7")]


def test_few_addresses_are_all_told_in_their_order():
    few = [at("192.168.1.7"), at("192.168.2.7"), through("45.33.1.10")]
    assert worth_telling([*few, *few, "nonsense"], 8) == few


def test_all_families_of_the_machine_share_one_free_port():
    hosts = any_hosts()
    assert hosts[0] == ALL4
    port = free_port(hosts)
    assert port
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)


def test_a_port_that_somebody_took_meanwhile_is_given_up(tmp_path):
    home = make(tmp_path / "ann", PeerSettings(), "home")
    assert (home.folder / KEY).exists()
    free = free_port(any_hosts())
    with socket.create_server(("127.0.0.1", 0)) as rival:
        keep_ports(home, {"control": free, "data": rival.getsockname()[1]})
        listen = with_ports(home, PeerSettings()).listen
    assert (listen.control_port, listen.data_port) == (free, 0)


@pytest.mark.parametrize(
    ("here", "hosts"),
    [
        # containers, the house, a provider's address: the last is what others reach
        (["172.17.0.1/16", "192.168.1.7/24", "45.33.1.10/24"], ["45.33.1.10"]),
        # one family alone, so that what two services see can be compared
        (["2a0f:1::7/64", "45.33.1.10/24", "45.33.1.11/24"], None),
        (["2a0f:1::7/64", "192.168.1.7/24"], ["2a0f:1::7"]),
        (["10.9.8.7/24"], ["10.9.8.7"]),
        ([], []),
    ],
)
def test_a_relay_serves_where_others_can_reach_it(here, hosts):
    found = relay_hosts([ipaddress.ip_interface(text) for text in here])
    assert found == (["45.33.1.10", "45.33.1.11"] if hosts is None else hosts)


def test_who_only_says_that_it_relays_is_used_where_we_have_met_it(tmp_path):
    keys = [Key(bytes([i]) * 32) for i in range(5, 9)]
    roles = ["peer", "peer", "relay", "admin"]
    members = {
        k.peer: SimpleNamespace(role=r) for k, r in zip(keys, roles, strict=True)
    }
    places = {
        k.peer: f"/ip4/45.33.1.{n}/tcp/4001/p2p/{k.peer}" for n, k in enumerate(keys)
    }
    through = f"{at('45.33.1.99')}/p2p-circuit/p2p/"
    cards = {
        k.peer: new_card(
            k,
            bytes(8),
            1,
            bytes(16),
            About((places[k.peer], through + k.peer), relays=True),
        )
        for k in keys
    }
    book = AddressBook(RealDisk(tmp_path), lambda: 1e9)
    for peer, place in places.items():
        book.heard(peer, [place])
    one, _liar, relay, admin = places.values()
    assert relays_among(members, cards.get, book) == [relay, admin]
    book.reached(keys[0].peer, one)
    assert relays_among(members, cards.get, book) == [relay, admin, one]
    assert relays_among(members, lambda peer: None, book) == []


def test_a_relay_follows_the_addresses_of_its_machine(monkeypatch):
    here = ["10.0.0.5/24"]
    found = lambda only: tuple(ipaddress.ip_interface(text) for text in here)  # noqa: E731
    monkeypatch.setattr("clients.peer.serving.interfaces", found)
    with ExitStack() as stack:
        service = serve_as_relay(Relay(serve=True), (), stack)
        assert [a.host for a in service.desk.addresses] == ["10.0.0.5"]
        assert not service.look()
        here[:] = ["45.33.1.7/24", "45.33.1.8/24"]
        assert service.look()
        assert [a.host for a in service.desk.addresses] == ["45.33.1.7"]
        assert [a.host for a in service.services.services] == ["45.33.1.7", "45.33.1.8"]
        here[:] = ["2a0f:1::7/64"]  # not of the family it listens with
        assert not service.look()
        for place in (*service.desk.addresses, *service.services.services):
            socket.create_connection(("127.0.0.1", place.port), 5).close()
    with ExitStack() as stack:
        service = serve_as_relay(Relay(serve=True, address="45.33.1.9"), (), stack)
        assert [a.host for a in service.desk.addresses] == ["45.33.1.9"]


def test_a_port_that_a_cloud_passes_on_is_reached_from_outside(monkeypatch):
    here = lambda: (ipaddress.ip_interface("10.0.0.5/24"),)  # noqa: E731
    monkeypatch.setattr("clients.peer.ways.interfaces", here)
    ours = [at("10.0.0.5"), at("45.33.1.7"), at("45.33.1.7"), through("45.33.1.10")]
    assert outside(None, 4002, ours) == [Address("45.33.1.7", 4002)]
    mapping = Mapping("45.33.1.8", 5000, 4002, 60)
    mapped = SimpleNamespace(mapping=mapping)
    assert outside(mapped, 4002, ours[:1]) == [Address("45.33.1.8", 5000)]


def test_the_address_of_a_relay_is_an_ip_address():
    assert Relay(address="45.33.1.7").address == "45.33.1.7"
    with pytest.raises(ConfigError, match="no IP address"):
        Relay(address="relay.example.org")


def test_a_relay_needs_three_ports():
    assert Relay(port=65533).port == 65533
    with pytest.raises(ConfigError, match="65533"):
        Relay(port=65534)
