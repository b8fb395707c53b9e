"""What a node does in odd hours: busy, flooded with neighbours, on a full disk."""

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from clients.peer.daemon import PeerNode
from clients.peer.ground import ground_in
from clients.peer.home import make
from clients.peer.live import watch
from clients.peer.member import MOST_LINKS, Member
from clients.peer.settings import PeerSettings
from clients.peer.starting import UNIT
from fedcore.errors import ConfigError, PeerLostError, StorageError
from p2p.content.adding import add_bytes
from p2p.content.asks import CHUNK, Wanted, encode_ask
from p2p.content.serving import Serving
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.identity.keys import Key
from p2p.machine import Asked, Note, Refuse

ANN, BOB, CYD = (Key(bytes([i]) * 32).peer for i in (1, 2, 3))


def member_of(home):
    return Member(home, PeerSettings(), "1", ground_in(home.folder))


@pytest.fixture
def member(tmp_path):
    made = member_of(make(tmp_path / "ann", PeerSettings(), "home"))
    yield made
    made.close()


def test_a_relay_that_is_a_member_is_wanted_like_any_other(member):
    member.met_nearby(BOB, ["/ip4/192.168.1.7/tcp/4001"])
    member.mesh.relays.add(BOB)
    assert member.addresses() == {}  # a stranger that only relays
    member.door._members[BOB] = SimpleNamespace(opening=None)
    assert member.addresses() == {BOB: ("/ip4/192.168.1.7/tcp/4001",)}


def test_neighbours_come_while_the_table_is_read_and_only_the_newest_stay(member):
    peers = [Key(i.to_bytes(32, "big")).peer for i in range(1, MOST_LINKS + 10)]
    for peer in peers[:3]:
        member.met_nearby(peer, [])
    seen = []
    for number, peer in enumerate(member.nearby):
        member.met_nearby(peers[number + 3], [])
        seen.append(peer)
    assert seen == peers[:3]
    for peer in peers:
        member.met_nearby(peer, ["/ip4/192.168.1.7/tcp/4001"])
    assert list(member.nearby) == peers[-MOST_LINKS:]


def test_an_address_book_that_cannot_be_written_is_no_end(member):
    def full():
        raise StorageError("no space is left")

    member.book.save = full
    assert member.keep_book(100.0) == [Note("disk", "no space is left")]


def test_a_node_that_is_too_busy_to_say_what_it_does_goes_on(tmp_path):
    asked, stop = [], threading.Event()

    def state():
        asked.append(1)
        if len(asked) == 2:
            stop.set()
        raise PeerLostError("the node has ended or is too busy")

    home = make(tmp_path / "ann", PeerSettings(), "home")
    node = PeerNode(home, PeerSettings(), lambda text: None)
    node.driver = SimpleNamespace(ended=threading.Event(), failure=None)
    node.report = SimpleNamespace(state=state)
    node.wait(stop)
    assert len(asked) == 2


def test_the_live_view_goes_on_while_the_node_is_busy_and_ends_with_it():
    asked, moments = [], iter([True, True, False])

    def status():
        asked.append(1)
        raise PeerLostError("busy")

    screen = Console(file=io.StringIO())
    watch(status, lambda count: [], lambda: next(moments), screen)
    assert len(asked) == 2


def test_what_a_lost_peer_asked_for_is_refused_so_that_it_ends():
    shelf = Shelf(MemorySpace())
    cid = add_bytes(shelf, bytes(600_000))
    serving = Serving(shelf, 1.0, {})  # a byte a second
    body = encode_ask(Wanted(CHUNK, cid, 0))
    for ticket in range(100):
        serving.asked(Asked(BOB, "/swarm/1", body, ticket))
        serving.serve(0.0)
    left = {e.ticket for e in serving.drop(BOB) if isinstance(e, Refuse)}
    assert left == set(range(100)[-len(left) :])
    assert left
    assert serving.drop(BOB) == []


def test_the_unit_bears_folders_with_blanks():
    unit = UNIT.format(program="fedcore", home="/srv/my peer", user="ann")
    assert 'ExecStart=fedcore peer up --home "/srv/my peer"' in unit
    assert 'ReadWritePaths="/srv/my peer"' in unit


def test_a_peer_is_not_made_among_the_rest_of_another(tmp_path):
    home = make(tmp_path / "ann", PeerSettings(), "home")
    member_of(home).close()
    (home.folder / "key").unlink()
    with pytest.raises(ConfigError, match="whose key was lost"):
        make(home.folder, PeerSettings(), "other")


def test_a_member_lets_go_of_its_files(member, tmp_path):
    member.close()  # the fixture's repeats it, which is harmless
    again = member_of(member.home)
    assert again.replica.root() == member.replica.root()
    again.close()


def test_who_has_left_is_not_started_again_by_the_system():
    assert "Restart=on-failure\n" in UNIT  # leaving ends the program well
    assert "ConditionPathExists={home}/key\n" in UNIT  # and deletes the key
