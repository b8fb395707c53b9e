"""What a peer tells of itself, and what it listens on."""

import ipaddress
import socket

import pytest

from clients.peer.home import KEY, keep_ports, make, with_ports
from clients.peer.ports import ALL4, any_hosts, free_port, is_free
from clients.peer.serving import relay_hosts
from clients.peer.settings import PeerSettings, Relay
from clients.peer.ways import worth_telling
from fedcore.errors import ConfigError
from p2p.identity.keys import Key

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


def test_a_relay_needs_three_ports():
    assert Relay(port=65533).port == 65533
    with pytest.raises(ConfigError, match="65533"):
        Relay(port=65534)
