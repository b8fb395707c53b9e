"""What a node says to its owner: refusals, invites, routers, states."""

import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from clients.peer import asking
from clients.peer.actions import Actions
from clients.peer.control import Control, ask
from clients.peer.ground import ground_in
from clients.peer.history import MOST, History
from clients.peer.home import STATE, forget, give_up, load, make
from clients.peer.member import LEFT, Member
from clients.peer.network import Network, router_words
from clients.peer.people import People, _check_leaving
from clients.peer.report import _state
from clients.peer.runs import Runs
from clients.peer.settings import Find, Limit, PeerSettings, Relay
from clients.peer.tables import peers_table
from clients.peer.training import train
from clients.peer.verifying import _further
from clients.peer.ways import reach_words
from fedcore.errors import ConfigError, StorageError
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.machine import Woken
from p2p.nat.addresses import Address, Candidate
from p2p.nat.kinds import Nat
from p2p.state.bodies import Presence
from p2p.state.chain import Kind, Tip
from p2p.state.places import Listed
from p2p.state.said import Place

BOB = Key(bytes([2]) * 32).peer


@pytest.fixture
def home(tmp_path):
    return make(tmp_path / "ann", PeerSettings(), "home")


def test_who_has_left_is_nobody_here_and_turned_away_elsewhere(home):
    member = Member(home, PeerSettings(), "1", ground_in(home.folder, fresh=True))
    assert member.standing() == "in"
    assert member.banned(home.opening) is None
    lamport = member.replica.view.next_lamport
    member.replica.write([(Kind.LEAVE, Presence(lamport).encode())])
    assert member.standing() == "left"
    assert member.banned(home.opening) == LEFT
    assert not member.is_member(home.me)
    member.close()


def test_who_is_a_member_can_be_asked_beside_the_machine(home):
    """Tunnels ask in a thread of their own, and the state is the machine's alone."""
    member = Member(home, PeerSettings(), "1", ground_in(home.folder, fresh=True))
    assert not member.was_member(home.me)
    member.mesh.step(0.0, Woken())
    replica, member.replica = member.replica, None
    assert member.was_member(home.me)
    assert not member.was_member(BOB)
    member.replica = replica
    member.close()


def test_what_a_failed_forget_left_can_be_forgotten(home, monkeypatch):
    Member(home, PeerSettings(), "1", ground_in(home.folder)).close()
    unlink, fails = Path.unlink, ["opening"]
    for draft in (".key.0a1b2c3d", "ports.json.tmp"):  # the end came as it was written
        (home.folder / draft).touch()

    def unlinked(path, **more):
        if path.name in fails:
            raise OSError(5, "the disk is broken")
        unlink(path, **more)

    state_first = sorted(home.folder.iterdir(), key=lambda p: p.name != STATE)
    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(state_first))
    with pytest.raises(StorageError):
        forget(home.folder)
    monkeypatch.undo()
    forget(home.folder)
    assert not home.folder.exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_a_limit_is_a_number(value):
    for field in ("up_mbit", "down_mbit", "disk_gb", "state_gb"):
        with pytest.raises(ConfigError, match="0 is no limit"):
            Limit(**{field: value})
    with pytest.raises(ConfigError, match="finite"):
        Relay(circuit_gb=value)


def test_a_peer_without_its_key_can_only_be_forgotten(home):
    Member(home, PeerSettings(), "1", ground_in(home.folder)).close()
    give_up(home.folder)
    for act in (load, lambda folder: make(folder, PeerSettings(), "other")):
        with pytest.raises(ConfigError, match="has left its network"):
            act(home.folder)
    forget(home.folder)
    assert not home.folder.exists()
    with pytest.raises(ConfigError, match="no peer in"):
        load(home.folder)


@pytest.mark.parametrize(
    ("role", "others", "why"),
    [
        ("peer", [("admin", False)], "nobody else is here"),
        ("admin", [("peer", True), ("peer", False)], "only admin"),
        ("admin", [("admin", True)], ""),
        ("admin", [], ""),
        ("peer", [("admin", True)], ""),
    ],
)
def test_leaving_what_one_would_regret_is_refused(role, others, why):
    rows = [{"role": r, "inside": inside} for r, inside in others]
    here = [row for row in rows if row["inside"]]
    if why:
        with pytest.raises(ConfigError, match=why):
            _check_leaving(role, rows, here)
    else:
        _check_leaving(role, rows, here)


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ([], "no address"),
        (["/ip4/127.0.0.1/tcp/1"], "from this machine only"),
        (["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"], "this local network only"),
        (["/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1"], ""),
        (["/dns/a.example/tcp/1"], ""),
    ],
)
def test_an_invite_says_what_it_cannot_do(addresses, words):
    found = reach_words(addresses)
    assert words in found
    assert bool(words) == bool(found)


@pytest.mark.parametrize("address", ["hello", "/ip4/192.0.2.7/tcp/4001", "/ip4/x"])
def test_addresses_that_lead_nowhere_are_refused_with_a_pattern(address):
    for one in ({"relays": (address,)}, {"bootstrap": (address,)}):
        with pytest.raises(ConfigError, match="/p2p/12D3"):
            Find(**one)
    Find(relays=(f"/ip4/192.0.2.7/tcp/4001/p2p/{BOB}",))


def test_a_public_address_is_no_unknown_router():
    public = [Candidate("public", Address("203.0.113.7", 4001))]
    lan = [Candidate("lan", Address("10.0.0.1", 4001))]
    where = lambda nat, all: SimpleNamespace(nat=nat, candidates=all)  # noqa: E731
    assert "open, it seems" in router_words(where(Nat.UNKNOWN, public))
    assert "unknown" in router_words(where(Nat.UNKNOWN, lan))
    assert "symmetric" in router_words(where(Nat.SYMMETRIC, public))
    assert "no network" in router_words(where(Nat.UNKNOWN, []))
    assert router_words(None) == "not known yet"


@pytest.mark.parametrize("count", [0, -1, 101])
def test_pings_have_a_number(count):
    with pytest.raises(ConfigError, match="--count"):
        Network(SimpleNamespace()).ping({"count": count, "peer": "bob"}, print)


def test_who_was_sent_away_says_so_though_others_still_are_there():
    peer = {"inside": True, "status": "in", "path": "direct (same network)"}
    inner = {"standing": "out", "level": True, "members": 2, "training": []}
    inner |= {"disk": ""}
    assert _state(inner, [peer])[1] == "this peer was sent away from the network"
    assert _state(inner | {"standing": "in"}, [peer])[0] == "direct"


def test_a_long_reason_does_not_tear_the_table():
    why = f"waiting: nobody could be reached: /ip4/10.0.0.1/tcp/1/p2p/{BOB}: refused, "
    row = {"name": "bob", "peer": BOB, "role": "peer", "path": why * 3, "version": "1"}
    row |= {"up_bytes": 0, "down_bytes": 0, "alive": False, "seen_s": None}
    text = peers_table([row])
    assert max(map(len, text.splitlines())) < 140
    assert BOB not in text


@pytest.mark.parametrize("letters", [10, 150])
def test_commands_reach_a_node_in_a_folder_of_any_length(
    tmp_path, letters, monkeypatch
):
    folder = tmp_path / ("x" * letters)
    folder.mkdir()
    control = Control(folder, lambda request, say: {"echo": request["do"]}).start()
    assert ask(folder, {"do": "hello"}) == {"echo": "hello"}
    control.close()
    monkeypatch.setattr("clients.peer.control.FOLDERS", tmp_path / "no-proc")
    if len(str(folder)) > 100:
        with pytest.raises(ConfigError, match="choose a folder with a shorter path"):
            Control(folder, lambda request, say: {})
    else:
        Control(folder, lambda request, say: {}).start().close()


def test_charts_have_a_sample_now_and_then_and_not_too_many():
    history = History()
    for second in range(3 * MOST):
        history.take(float(second), {"entries": second, "additions": 0})
    found = history.plain()
    assert found["entries"][-3:] == [3 * MOST - 6, 3 * MOST - 4, 3 * MOST - 2]
    assert len(found["entries"]) == len(found["additions"]) == MOST


def test_additions_are_counted_by_peer_as_they_come():
    logs = {
        w: SimpleNamespace(opening=SimpleNamespace(peer=w[0])) for w in ("a1", "b1")
    }
    places = [Place("a1", 1), Place("b1", 1)]
    view = SimpleNamespace(facts={"r": Listed(places, 2)}, runs={})
    replica = SimpleNamespace(view=view, logs=SimpleNamespace(by_writer=logs))
    driver = SimpleNamespace(call=lambda act: act(0.0)[0])
    member = SimpleNamespace(replica=replica)
    runs = Runs(
        SimpleNamespace(member=member, driver=driver, home=SimpleNamespace(me=""))
    )
    assert runs.added_by("r") == {"a": 1, "b": 1}
    places.append(Place("a1", 2))
    assert runs.added_by("r") == {"a": 1, "b": 1}  # the view is older
    view.facts["r"] = Listed(places, 3)
    assert runs.added_by("r") == {"a": 2, "b": 1}
    view.facts["r"] = Listed(places[:1], 1)  # a log was cut: another list
    assert runs.added_by("r") == {"a": 1}
    assert runs.added_by("other") == {}


def running(home, **view):
    """Return a node as far as requests look at it."""
    log = SimpleNamespace(opening=home.opening)
    logs = SimpleNamespace(by_writer={home.me: log})
    replica = SimpleNamespace(view=SimpleNamespace(**view), logs=logs)
    driver = SimpleNamespace(call=lambda act: act(0.0)[0])
    member = SimpleNamespace(replica=replica)
    return SimpleNamespace(home=home, driver=driver, member=member)


def test_an_invite_is_named_by_its_line_or_its_id(home, tmp_path):
    called = People(running(home))._invite_called
    line = invite(home.proof, home.key, Terms("peer", 60.0, []), time.time())
    assert called(line) == called(read_invite(line).id) == read_invite(line).id
    for word in ("hello", "", "ab" * 20):
        with pytest.raises(ConfigError, match="is no invite that was used here"):
            called(word)
    other = make(tmp_path / "other", PeerSettings(), "other")
    line = invite(other.proof, other.key, Terms("peer", 60.0, []), time.time())
    with pytest.raises(ConfigError, match="of another network, other"):
        called(line)


def test_content_that_is_misspelt_is_named_with_the_nearest(home):
    actions = Actions(running(home, checkpoints={"adapter": None}))
    with pytest.raises(ConfigError, match='the nearest is "adapter"'):
        actions._named("adaptor")


def test_what_nobody_could_name_is_not_shared(home):
    asked = {"do": "put", "file": "weights..bin", "name": "weights..bin"}
    with pytest.raises(ConfigError, match=r'has "\.\." in it; give another: --name'):
        Actions(running(home))._put(asked, print)  # here is no shelf to copy it to


def test_a_log_that_is_let_go_while_it_is_checked_is_no_fault():
    start = Tip(0, bytes(32))
    assert _further(SimpleNamespace(by_writer={}), BOB, start) == (start, "")


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), 1e9])
def test_an_invite_lasts_for_days_that_can_be(days):
    with pytest.raises(ConfigError, match="--days"):
        asking.invite(Namespace(days=days))


@pytest.mark.parametrize(("turns", "every"), [(-1, 1), (1, 0)])
def test_turns_are_counted(turns, every):
    with pytest.raises(ConfigError, match="--turns must be 0 or more"):
        train(Namespace(turns=turns, every=every))
