"""What people do with ``fedcore peer``: real processes on the loopback interface."""

import socket
import threading
from contextlib import suppress

import pytest

from clients.peer.control import ask
from fedcore.errors import ConfigError
from tests.nodes import HERE, QUIET, Node, all_level, stop_all

pytestmark = pytest.mark.slow


@pytest.fixture
def mesh(tmp_path):
    """Return a function that makes one more node of a network and starts it."""
    nodes = {}

    def add(name, *words, role="peer", up=True):
        node = Node(tmp_path / name)
        mine = [*HERE, *QUIET, "--set", f"name={name}", *words]
        if nodes:
            first = next(iter(nodes.values()))
            invite = first.run("invite", "--role", role)
            node.run("join", invite, *mine)
        else:
            node.run("init", "home", *mine)
        nodes[name] = node
        return node.up() if up else node

    yield add
    stop_all(list(nodes.values()))


def test_a_mesh_is_played_on_this_machine(tmp_path):
    node = Node(tmp_path / "unused")
    told = node.run("rehearse", "--mb", "5", "--keep", str(tmp_path), timeout_s=240)
    assert "3 processes are one mesh" in told
    assert "5.0 MB are with everybody" in told
    assert "trained by all at once, with no server: digits: loss" in told
    assert told.count("kill -9 of") == 2
    assert told.endswith("every signature, link and chunk of every node is good")


def test_a_node_alone_says_what_to_do_and_stops_cleanly(mesh):
    ann = mesh("ann")
    status = ann.ask("status")
    assert status["state"] == "waiting"
    assert "fedcore peer invite" in status["why"]
    assert (ann.run("peers"), ann.run("ls")) == (
        "nobody else is a member yet; invite somebody: fedcore peer invite",
        "nothing is shared yet; share a file: fedcore peer put FILE",
    )
    assert ann.stop() == 0
    assert not (ann.home / "control.sock").exists()


def test_only_one_node_runs_in_a_folder(mesh):
    ann = mesh("ann")
    with pytest.raises(AssertionError, match=r"runs in .* already"):
        ann.run("up")
    with pytest.raises(AssertionError, match=r"runs in .* already"):
        ann.run("forget", "--yes")


def test_roles_are_kept_to(mesh, tmp_path):
    ann, eve = mesh("ann"), mesh("eve", role="observer")
    all_level([ann, eve])
    (tmp_path / "file").write_text("x")
    with pytest.raises(AssertionError, match="role observer may not write"):
        eve.run("put", str(tmp_path / "file"))
    with pytest.raises(AssertionError, match="role observer may not invite"):
        eve.run("invite")
    cid = ann.run("put", str(tmp_path / "file"))
    eve.run("get", cid, "--out", str(tmp_path / "got"))
    assert (tmp_path / "got").read_text() == "x"


def test_who_is_evicted_is_out_everywhere(mesh):
    ann, bob, eve = mesh("ann"), mesh("bob"), mesh("eve")
    all_level([ann, bob, eve])
    with pytest.raises(AssertionError, match="role peer may not evict"):
        bob.run("evict", "eve")
    ann.run("evict", "eve")
    for node in (ann, bob):
        node.until(lambda node=node: "eve" not in node.paths(), "eve is out")
        assert "out" in [p["status"] for p in node.status()["peers"]]
    eve.until(lambda: not eve.paths(), "eve has nobody left")


def test_a_revoked_invite_lets_nobody_in(mesh, tmp_path):
    ann = mesh("ann")
    invite = ann.run("invite")
    ann.run("revoke", invite)
    late = Node(tmp_path / "late")
    late.run("join", invite, *HERE, *QUIET)
    try:
        late.up()
        late.until(
            lambda: "revoked" in str(ask(late.home, {"do": "notes"})), "told why"
        )
        assert ann.paths() == late.paths() == {}
    finally:
        stop_all([late])


def test_bad_invites_are_refused_with_the_reason(mesh, tmp_path):
    ann = mesh("ann")
    invite = ann.run("invite")
    other = Node(tmp_path / "other")
    typo = invite[:40] + ("b" if invite[40] == "a" else "a") + invite[41:]
    slip = "a slip or a gap"
    for text, why in ((typo, slip), ("hello", "fed1"), (invite[:-9], slip)):
        with pytest.raises(AssertionError, match=why):
            other.run("join", text)
        assert not (other.home / "key").exists()


def test_what_was_left_is_told_and_forgotten_but_not_what_is_not_ours(mesh):
    ann, bob = mesh("ann"), mesh("bob")
    all_level([ann, bob])
    (bob.home / "holiday.txt").write_text("not ours")
    with pytest.raises(AssertionError, match="only admin"):
        ann.run("leave")
    bob.run("leave")
    assert bob.process.wait(30) == 0
    rows = lambda: [p["status"] for p in ann.status()["peers"]]  # noqa: E731
    ann.until(lambda: rows() == ["left"], "bob has left")
    ann.until(lambda: not ann.status()["peers"][0]["channel"], "it was let go")
    assert (ann.status()["alive"], ann.status()["members"]) == (1, 1)
    with pytest.raises(AssertionError, match="rest of a peer that has left"):
        bob.run("up")
    bob.run("forget", "--yes")
    assert [p.name for p in bob.home.iterdir()] == ["holiday.txt"]


def test_damage_on_disk_is_found_and_mended(mesh, tmp_path):
    ann, bob = mesh("ann"), mesh("bob")
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 8192)
    cid = ann.run("put", str(big))
    bob.run("get", cid)
    assert bob.ask("verify")["good"] is True
    (blob,) = (bob.home / "shelf").glob("*.blob")
    with blob.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    with pytest.raises(AssertionError, match="verify"):
        bob.run("verify")
    bob.run("get", cid, "--out", str(tmp_path / "mended"))
    assert (tmp_path / "mended").read_bytes() == big.read_bytes()


def test_a_service_is_reached_through_the_mesh(mesh):
    ann, bob = mesh("ann"), mesh("bob")
    all_level([ann, bob])
    ann.until(lambda: ann.status()["peers"][0]["channel"], "a channel")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        ann.run("expose", "echo", f"localhost:{server.getsockname()[1]}")
        with pytest.raises(AssertionError, match="refuses: no service 'ecko'"):
            bob.run("tunnel", "ann", "ecko")
        port = int(bob.run("tunnel", "ann", "echo").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.sendall(b"through the mesh")
            sock.shutdown(socket.SHUT_WR)
            assert sock.makefile("rb").read() == b"through the mesh"


def echo(server):
    """Serve two: `tunnel` looks first whether there is anything."""
    for _ in range(2):
        sock, _ = server.accept()
        with sock, suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)


def test_members_train_one_model_and_a_newcomer_has_it_at_once(mesh):
    ann, bob = mesh("ann"), mesh("bob")
    all_level([ann, bob])
    small = ["--set", "strategy.size=64", "--set", "strategy.steps=4"]
    ann.run("train", "digits", "--found", "--turns", "2", "--share", "1/2", *small)
    bob.until(lambda: bob.status()["runs"] != [], "the run is known")
    bob.run("train", "digits", "--turns", "2", "--share", "2/2")
    all_level([ann, bob])
    weights = {n.run("train", "digits", "--turns", "0") for n in (ann, bob)}
    assert len(weights) == 1
    assert "4 additions of all peers" in weights.pop()
    assert ann.status()["state"] == "training"
    cyd = mesh("cyd")
    all_level([ann, bob, cyd])
    assert cyd.run("train", "digits", "--turns", "0") == ann.run(
        "train", "digits", "--turns", "0"
    )
    ann.run("withdraw", "digits", "bob")
    all_level([ann, bob, cyd])
    assert "2 additions of all peers" in cyd.run("train", "digits", "--turns", "0")
    with pytest.raises(AssertionError, match="left out"):
        bob.run("train", "digits", "--turns", "1")


def test_what_cannot_be_trained_is_said(mesh):
    ann, bob = mesh("ann"), mesh("bob")
    all_level([ann, bob])
    with pytest.raises(AssertionError, match="no run is called digits"):
        bob.run("train", "digits", "--turns", "1")
    with pytest.raises(AssertionError, match="only admins begin a run"):
        bob.run("train", "digits", "--found", "--turns", "0")
    origin = f"hadamard:shift:64:0 {'0' * 64} 0x1.0p+0"
    request = {"do": "found", "run": "evil", "origin": origin}
    request["spec"] = "bafy\ntask.name=./mine.py"
    ask(ann.home, request)
    with pytest.raises(AssertionError, match="names a file of code"):
        ann.run("train", "evil", "--turns", "1")


def test_unknown_words_bring_the_nearest(mesh):
    ann, bob = mesh("ann"), mesh("bobby")
    all_level([ann, bob])
    ann.until(lambda: "bobby" in ann.paths(), "bobby's name is known")
    with pytest.raises(ConfigError, match='the nearest is "status"'):
        ask(ann.home, {"do": "statsu"})
    with pytest.raises(AssertionError, match='the nearest is "bobby"'):
        ann.run("ping", "boby")
    assert len(ann.ask("ping", "bobby", "--count", "3")["took_s"]) == 3
