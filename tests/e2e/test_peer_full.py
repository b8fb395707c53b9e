"""A node whose disk is full goes on, says so, and catches up when there is room."""

import contextlib
import os
import subprocess

import pytest

from tests.nodes import HERE, QUIET, Node, all_level, stop_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk"),
]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "bob"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Leave no room at all, and return what to delete for some."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))
    return filler


def put(node, path, data):
    path.write_bytes(data)
    return node.run("put", str(path))


def names(node):
    return {item["name"] for item in node.status()["contents"]}


def test_a_full_disk_ends_nothing_and_loses_nothing(tmp_path, small_disk):
    ann, bob = nodes = [Node(tmp_path / "ann"), Node(small_disk)]
    try:
        ann.run("init", "home", *HERE, *QUIET, "--set", "name=ann")
        ann.up()
        bob.run("join", ann.run("invite"), *HERE, *QUIET, "--set", "name=bob")
        bob.up()
        all_level(nodes)
        cid = put(bob, tmp_path / "early", b"early")
        level = all_level(nodes)
        filler = fill(small_disk)
        put(ann, tmp_path / "meanwhile", b"meanwhile")
        bob.until(lambda: "free some space" in bob.status()["why"], "it says so")
        assert bob.status()["state"] == "waiting"
        assert bob.status()["root"] == level
        with pytest.raises(AssertionError, match="free some space"):
            put(bob, tmp_path / "refused", b"refused")
        assert "nothing more is written" in bob.notes()
        filler.unlink()
        bob.until(lambda: bob.status()["state"] == "direct", "it goes on")
        put(bob, tmp_path / "late", b"late")
        assert all_level(nodes) != level
        for node in nodes:
            node.until(lambda node=node: len(names(node)) == 3, "all is listed")
            assert names(node) == {"early", "meanwhile", "late"}
            assert node.ask("verify")["good"]
        ann.run("get", cid)
        bob.kill()
        bob.up()
        all_level(nodes)
        assert names(bob) == {"early", "meanwhile", "late"}
    finally:
        stop_all(nodes)
