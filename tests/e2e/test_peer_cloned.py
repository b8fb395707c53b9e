"""One key in two places, old backups, and full disks: named, frozen, nothing lost."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.nodes import HERE, QUIET, Node, stop_all

pytestmark = pytest.mark.slow


@pytest.fixture
def mesh(tmp_path):
    """Return a function that makes one more node of a network and starts it."""
    nodes = []

    def add(name, home=None):
        node = Node(home or tmp_path / name)
        mine = [*HERE, *QUIET, "--set", f"name={name}"]
        if nodes:
            node.run("join", nodes[0].run("invite"), *mine)
        else:
            node.run("init", "home", *mine)
        nodes.append(node)
        return node.up()

    add.nodes = nodes
    yield add
    stop_all(nodes)


def level(*nodes):
    """Wait until all hold one state."""
    nodes[0].until(lambda: len({n.status()["root"] for n in nodes}) == 1, "level")


def put(node, folder, name):
    (folder / name).write_text(name)
    return node.run("put", str(folder / name))


def names(node):
    return {row["name"] for row in node.status()["contents"]}


def copied(node, folder):
    """Return a copy of the node's folder, with ports of its own."""
    home = folder / "copy" / node.home.name
    shutil.copytree(node.home, home, ignore=shutil.ignore_patterns("*.sock"))
    (home / "ports.json").unlink()
    return Node(home)


def test_two_nodes_with_one_key_are_named_and_one_goes_on(mesh, tmp_path):
    ann, bob, cyd = mesh("ann"), mesh("bob"), mesh("cyd")
    level(ann, bob, cyd)
    put(bob, tmp_path, "before")
    level(ann, bob, cyd)
    bob.stop()
    twin = copied(bob, tmp_path)
    mesh.nodes.append(twin)
    bob.up()
    twin.up()
    everybody = lambda: "".join(n.notes() for n in (ann, bob, cyd, twin))  # noqa: E731
    ann.until(lambda: "two programs run with the key" in everybody(), "named", 40)
    put(ann, tmp_path, "from ann")
    put(cyd, tmp_path, "from cyd")
    level(ann, cyd)
    for node, name in ((bob, "from bob"), (twin, "from the twin")):
        put(node, tmp_path, name)
    twin.stop()
    put(bob, tmp_path, "after")
    wanted = {"before", "from ann", "from cyd", "from bob", "after"}
    ann.until(lambda: wanted <= names(ann) and wanted <= names(cyd), "all is there")
    level(ann, bob, cyd)
    for node in (ann, bob, cyd):
        assert node.ask("verify")["good"]
    cid = put(cyd, tmp_path, "at last")
    bob.run("get", cid)


def test_a_restored_backup_loses_nothing_and_tells_no_second_story(mesh, tmp_path):
    ann, bob = mesh("ann"), mesh("bob")
    level(ann, bob)
    put(bob, tmp_path, "early")
    level(ann, bob)
    bob.stop()
    backup = tmp_path / "backup"
    shutil.copytree(bob.home, backup)
    bob.up()
    bob.until(lambda: "ann" in bob.paths(), "ann is there")
    put(bob, tmp_path, "late")
    level(ann, bob)
    bob.kill()
    for path in bob.home.glob("state.db*"):
        path.unlink()
    for path in backup.glob("state.db*"):
        shutil.copy(path, bob.home)
    bob.up()
    put(bob, tmp_path, "new")  # at once, perhaps before anybody could be asked
    wanted = {"early", "late", "new"}
    for node in (ann, bob):
        node.until(lambda node=node: names(node) == wanted, f"all of {wanted}")
    level(ann, bob)
    assert [n.status()["forks"] for n in (ann, bob)] == [[], []]
    assert ann.ask("verify")["good"]
    assert bob.ask("verify")["good"]


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_is_lost(mesh, tmp_path):
    ann = mesh("ann")
    with small_disk(tmp_path / "disk", "6m") as disk:
        bob = mesh("bob", disk / "bob")
        level(ann, bob)
        (tmp_path / "large").write_bytes(os.urandom(9_000_000))
        ann.run("put", str(tmp_path / "large"))
        bob.until(lambda: "No space left" in bob.notes(), "bob says why")
        level(ann, bob)
        small = put(ann, tmp_path, "small")
        bob.run("get", small)
        filler = disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                pass
        for number in range(40):
            put_quickly(ann, tmp_path, f"thing {number}")
        time.sleep(3)
        filler.unlink()
        if bob.process.poll() is not None:
            assert "full" in bob.log()
            (bob.home / "control.sock").unlink(missing_ok=True)
            bob.up()
        bob.until(lambda: len(names(bob)) == 42, "bob has heard of all")
        level(ann, bob)
        assert bob.ask("verify")["good"]
        stop_all([bob])


def put_quickly(node, folder, name):
    from clients.peer.control import ask

    (folder / name).write_bytes(os.urandom(20_000))
    ask(node.home, {"do": "put", "file": str(folder / name), "name": name})
