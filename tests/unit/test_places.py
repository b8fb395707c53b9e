"""Addresses from strangers: the forms we dial, in one spelling, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.members.places import MAX_CHARS, Reach, read_place

ME, RELAY = (Key(bytes([i]) * 32).peer for i in (1, 2))


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("/ip4/127.0.0.1/tcp/4001", Reach.HERE),
        ("/ip6/::1/tcp/4001", Reach.HERE),
        ("/ip4/192.168.1.7/tcp/4001/ws", Reach.LAN),
        ("/ip4/100.64.3.2/tcp/4001", Reach.LAN),
        ("/ip6/fd00::7/tcp/65535", Reach.LAN),
        ("/ip4/45.33.1.10/tcp/1", Reach.PUBLIC),
        ("/ip6/2a00:1450::5/tcp/4001", Reach.PUBLIC),
        ("/dns/relay.example.org/tcp/4001", Reach.NAMED),
    ],
)
def test_an_address_says_how_near_it_is(text, reach):
    for peer in (None, ME):
        place = read_place(f"{text}/p2p/{peer}" if peer else text)
        assert (place.reach, place.peer, place.relay) == (reach, peer, None)
        assert place.port == int(text.removesuffix("/ws").rpartition("/")[2])


def test_a_circuit_names_its_relay_and_its_end():
    text = f"/ip4/45.33.1.10/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{ME}"
    place = read_place(text)
    assert (place.reach, place.peer, place.relay) == (Reach.RELAYED, ME, RELAY)
    assert (place.host, place.port, place.text) == ("45.33.1.10", 4001, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/::/tcp/4001",
        "/ip4/224.0.0.251/tcp/4001",
        "/ip4/255.255.255.255/tcp/4001",
        "/ip4/192.168.1.7/tcp/0",
        "/ip4/192.168.1.7/tcp/04001",
        "/ip4/192.168.1.7/tcp/65536",
        "/ip4/192.168.1.7/udp/4001/quic-v1",
        "/ip4/192.168.01.7/tcp/4001",
        "/ip4/192.168.1.7/tcp/4001/",
        "/ip4/192.168.1.7/tcp/4001/p2p/" + "1" * 52,
        "/ip4/192.168.1.7/tcp/4001/p2p-circuit/p2p/" + ME,
        f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY}/p2p-circuit",
        f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{ME}/p2p-circuit/p2p/{ME}",
        "/ip6/2A00:1450::5/tcp/4001",
        "/ip6/2a00:1450:0:0:0:0:0:5/tcp/4001",
        "/ip6/fe80::1%eth0/tcp/4001",
        "/dns/UPPER.example/tcp/4001",
        "/dns/-bad.example/tcp/4001",
        "/dns/" + "a" * 64 + "/tcp/1",
        "/unix/a/tcp/4001",
        "x/ip4/1.2.3.4/tcp/1",
        "/ip4/1.2.3.4/tcp/\N{ARABIC-INDIC DIGIT FOUR}",
        "/ip4/1.2.3.4/tcp/1\n",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ProtocolError):
        read_place(text)


def test_a_long_address_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError, match="characters"):
        read_place("/dns/" + "a." * MAX_CHARS + "org/tcp/4001")


WORDS = f"ip4 ip6 dns tcp udp ws p2p p2p-circuit 1.2.3.4 ::1 0 4001 99999 {ME} a.org %"
PIECES = st.sampled_from([*WORDS.split(), RELAY, "", "\0", "é"])


@given(st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=14).map("/".join)))
def test_only_protocol_errors_come_out_and_what_is_read_is_the_whole(text):
    try:
        place = read_place(text)
    except ProtocolError:
        return
    assert place.text == text
    assert f"/{place.host}/tcp/{place.port}" in text
