"""Peers on the LAN: what is announced, what is believed, and a flood of lies."""

import random
import threading
import time

import pytest
import zeroconf
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.libp2p.nearby import (
    MAX_ADDRESSES,
    MAX_WAITING,
    Nearby,
    announced,
    read_announcement,
    service_of,
)

ANN, BOB, EVE = (Key(bytes([i]) * 32).peer for i in (1, 2, 3))
NETWORK = "ab" * 32


def at(host, peer, port=4001):
    return f"/ip4/{host}/tcp/{port}/p2p/{peer}"


def said(*addresses):
    return {f"a{i}".encode(): a.encode() for i, a in enumerate(addresses)}


def test_the_service_does_not_tell_the_network():
    name = service_of("hospital north")
    assert name.startswith("_fc")
    assert "hospital" not in name
    assert name == service_of("hospital north") != service_of("hospital south")
    assert len(name.partition(".")[0]) <= 16  # a DNS-SD name has 15 letters at most


def test_only_places_on_a_lan_are_announced():
    circuit = f"{at('45.33.1.10', EVE)}/p2p-circuit/p2p/{ANN}"
    here, lan, wan = at("127.0.0.1", ANN), at("192.168.1.7", ANN), at("45.33.1.7", ANN)
    wrong = ["/ip4/0.0.0.0/tcp/4001", "nonsense"]
    mixed = [circuit, here, wan, lan, *wrong]
    assert [p.text for p in announced(mixed)] == [lan, wan]
    assert [p.text for p in announced([circuit, here])] == [here]
    many = [at("192.168.1.7", ANN, port) for port in range(4001, 4100)]
    assert len(announced(many)) == MAX_ADDRESSES


def test_an_announcement_is_one_peer_at_some_addresses():
    near = [at("192.168.1.7", ANN), at("192.168.1.8", ANN)]
    assert read_announcement(said(*near)) == (ANN, near)
    assert read_announcement({}) is None
    assert read_announcement({b"other": b"x", b"a0": None}) is None


@pytest.mark.parametrize(
    "addresses",
    [
        [at("192.168.1.7", ANN), at("192.168.1.7", EVE)],
        ["/ip4/192.168.1.7/tcp/4001"],
        [at("0.0.0.0", ANN)],
        [f"{at('45.33.1.10', EVE)}/p2p-circuit/p2p/{ANN}"],
        ["/ip4/1.2.3.4/tcp/1/p2p/\N{SNOWMAN}"],
    ],
)
def test_other_announcements_are_refused(addresses):
    with pytest.raises(ProtocolError):
        read_announcement(said(*addresses))


@given(st.dictionaries(st.sampled_from([b"a0", b"a1", b"a7"]), st.binary(max_size=99)))
def test_no_announcement_breaks_the_reader(properties):
    try:
        spoken = read_announcement(properties)
    except ProtocolError:
        return
    assert spoken is None or spoken[0]


def near(me, addresses, found, network=NETWORK):
    rng = random.Random(me)
    return Nearby(network, me, lambda: addresses, found, rng, ["127.0.0.1"])


@pytest.mark.slow
def test_peers_of_one_network_find_each_other_and_nobody_else():
    heard = {peer: [] for peer in (ANN, BOB, EVE)}
    done = threading.Event()

    def note(me):
        def found(peer, addresses):
            heard[me].append((peer, addresses))
            if heard[ANN] and heard[BOB]:
                done.set()

        return found

    places = {p: [at("127.0.0.1", p, 4000 + i)] for i, p in enumerate(heard)}
    nodes = [near(p, places[p], note(p)) for p in (ANN, BOB)]
    nodes.append(near(EVE, places[EVE], note(EVE), network="cd" * 32))
    for node in nodes:
        node.start()
    assert done.wait(15)
    for node in nodes:
        node.close()
    assert set(map(repr, heard[ANN])) == {repr((BOB, places[BOB]))}
    assert set(map(repr, heard[BOB])) == {repr((ANN, places[ANN]))}
    assert heard[EVE] == []
    assert [node.words for node in nodes] == ["closed"] * 3


@pytest.mark.slow
def test_a_move_to_another_address_is_announced():
    found, places = [], [at("127.0.0.1", ANN)]
    ann = near(ANN, places, lambda *spoken: None)
    bob = near(BOB, [], lambda peer, addresses: found.append(addresses))
    ann.start()
    bob.start()
    wait_for(lambda: found)
    places[0] = at("127.0.0.1", ANN, 4999)
    ann.hurry()
    wait_for(lambda: [at("127.0.0.1", ANN, 4999)] in found)
    ann.close()
    bob.close()


def wait_for(condition):
    end_s = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_flood_is_dropped_by_chance_and_counted():
    """Ten thousand names: a bounded list is kept, and any of them may be on it."""
    node = near(ANN, [], lambda *spoken: None)
    added = zeroconf.ServiceStateChange.Added
    for i in range(10_000):
        node._heard(None, node.service, f"{i}.{node.service}", added)
    assert len(node._waiting) == MAX_WAITING
    assert node.dropped == 10_000 - MAX_WAITING
    assert max(int(name.partition(".")[0]) for name in node._waiting) > 5_000
    node._heard(None, node.service, node._name, added)
    assert node._name not in node._waiting


# The library leaves the socket of a failed start to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_without_a_network_it_waits_and_says_so():
    rng = random.Random(0)
    node = Nearby(NETWORK, ANN, lambda: [], lambda *spoken: None, rng, ["192.0.2.77"])
    node.start()
    wait_for(lambda: "cannot use multicast" in node.words)
    node.close()
    assert node.words == "closed"


@pytest.mark.slow
def test_a_machine_without_any_interface_waits_too(monkeypatch):
    def none(*_):
        raise RuntimeError("No interfaces to listen on")  # so the library says it

    monkeypatch.setattr(zeroconf, "Zeroconf", none)
    node = Nearby(NETWORK, ANN, lambda: [], lambda *spoken: None, random.Random(0))
    node.start()
    wait_for(lambda: "No interfaces" in node.words)
    assert node._thread.is_alive()
    node.close()
