"""What a node exposes, and the ports that lead to others."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from clients.peer import tunnels as module
from clients.peer.home import EXPOSED, make
from clients.peer.settings import PeerSettings
from clients.peer.tables import tunnels_table
from clients.peer.tunnels import Tunnels
from fedcore.errors import ConfigError, PeerLostError, ProtocolError, StorageError
from p2p.channel.tunnel import Tunnel
from p2p.identity.keys import Key

BOB = Key(bytes([2]) * 32).peer


@pytest.fixture
def node(tmp_path):
    def nobody_is_here(*_):
        answer = Future()
        answer.set_exception(PeerLostError("nobody is here"))
        return answer

    tunnel = Tunnel(nobody_is_here)
    member = SimpleNamespace(was_member=lambda peer: peer == BOB)
    home = make(tmp_path / "ann", PeerSettings(), "home")
    wires = SimpleNamespace(tunnel=tunnel)
    yield SimpleNamespace(home=home, member=member, wires=wires)
    tunnel.close()


def reached(node, name, peer=BOB):
    service = node.wires.tunnel._services.of(name, peer)
    return service.host, service.port


def test_what_is_exposed_stays_so_after_a_restart(node):
    Tunnels(node).expose("web", "localhost", 80)
    node.wires.tunnel.hide("web")
    again = Tunnels(node)
    assert reached(node, "web") == ("localhost", 80)
    with pytest.raises(ProtocolError, match="no service 'web' for you"):
        reached(node, "web", node.home.me)  # whom the network does not know
    again.hide("web")
    assert Tunnels(node).all()["exposed"] == []
    with pytest.raises(ProtocolError):
        reached(node, "web")


def test_what_cannot_be_exposed_is_not_kept(node):
    tunnels = Tunnels(node)
    for name, port in (("", 80), ("a/b", 80), ("web", 0), ("web", 65536)):
        with pytest.raises(ConfigError):
            tunnels.expose(name, "localhost", port)
    tunnels.expose("web", "localhost", 80)
    with pytest.raises(ConfigError, match='the nearest is "web"'):
        tunnels.hide("wep")
    assert len(Tunnels(node).all()["exposed"]) == 1


def test_there_are_not_too_many(node, monkeypatch):
    monkeypatch.setattr(module, "MOST", 1)
    tunnels = Tunnels(node)
    tunnels.expose("web", "localhost", 80)
    tunnels.expose("web", "localhost", 81)
    tunnels.forward(BOB, "web", 0)
    with pytest.raises(ConfigError, match="already"):
        tunnels.expose("ssh", "localhost", 22)
    with pytest.raises(ConfigError, match="already"):
        tunnels.forward(BOB, "ssh", 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"web": 3}', '{"web": ["a", "b"]}'])
def test_a_damaged_list_is_named(node, text):
    (node.home.folder / EXPOSED).write_text(text)
    with pytest.raises(StorageError, match="damaged"):
        Tunnels(node)


def test_a_port_is_listed_and_closed_again(node):
    tunnels = Tunnels(node)
    port = tunnels.forward(BOB, "web", 0)
    assert f"127.0.0.1:{port}" in tunnels_table(tunnels.all(), "forwards")
    with pytest.raises(ConfigError, match='no port leads to "ssh"'):
        tunnels.unforward(BOB, "ssh")
    tunnels.unforward(BOB, "web")
    assert "no port leads" in tunnels_table(tunnels.all(), "forwards")


def test_addresses_are_shown_as_one_writes_them(node):
    tunnels = Tunnels(node)
    tunnels.expose("ssh", "::1", 22)
    assert "[::1]:22" in tunnels_table(tunnels.all(), "exposed")


def test_a_port_that_would_lead_nowhere_is_not_opened(node):
    refused = Future()
    refused.set_exception(ProtocolError("no service 'webb' for you here"))
    node.wires.tunnel._ask = lambda *_: refused
    tunnels = Tunnels(node)
    with pytest.raises(ConfigError, match="refuses: no service 'webb'"):
        tunnels.forward(BOB, "webb", 0)
    assert tunnels.all()["forwards"] == []
    assert not node.wires.tunnel._forwards
