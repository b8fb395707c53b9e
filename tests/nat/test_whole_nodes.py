"""Five real nodes behind five kinds of router become one mesh from one invite."""

import os
import sys
from itertools import count

import pytest

from tests.nat.lab import Lab, inside
from tests.nodes import QUIET, Node, all_level, stop_all

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = {
    "ann": "port-restricted",
    "bob": "shifting",
    "cyd": "symmetric",
    "dot": "double",
    "eve": "full-cone",
}


class Stage:
    """A relay, and a node in each home."""

    def __init__(self, lab, folder):
        self.lab, self.folder, self.numbers = lab, folder, count()
        self.relay_place = lab.host("relay")
        self.relay = self.start_relay()
        self.places = {name: lab.home(name, kind) for name, kind in KINDS.items()}
        self.nodes = {name: self.node(name) for name in KINDS}

    def start_relay(self):
        relay = Node(self.folder / "relay", inside(self.relay_place.space, []))
        words = ["peer", "relay", "--home", str(relay.home), "--listen"]
        process = self.lab.python(
            self.relay_place, "fedcore", *words, self.relay_place.ip
        )
        line = process.stdout.readline()
        assert line.startswith("relay at "), process.stderr.read()
        self.address = line.split()[-1]
        return process

    def node(self, name):
        return Node(self.folder / name, inside(self.places[name].space, []))

    def settings(self, name):
        return [*QUIET, "--set", f"name={name}", "--set", f"find.relays={self.address}"]


def every_path(nodes):
    return {name: node.paths() for name, node in nodes.items()}


def test_five_nodes_behind_five_routers(tmp_path, capsys):
    with Lab() as lab:
        stage = Stage(lab, tmp_path)
        nodes = stage.nodes
        try:
            scene(stage, nodes, capsys)
        finally:
            stop_all(list(nodes.values()))


def scene(stage, nodes, capsys):
    ann = nodes["ann"]
    ann.run("init", "five", *stage.settings("ann"))
    ann.up()
    ann.until(
        lambda: any("p2p-circuit" in a for a in ann.status()["addresses"]), "relay"
    )
    invite = ann.run("invite")
    for name, node in list(nodes.items())[1:]:
        node.run("join", invite, *stage.settings(name))
        node.up()
    everyone = list(nodes.values())
    first = all_level(everyone, 120)

    def meshed():
        return all(len(n.status()["peers"]) == 4 == len(n.paths()) for n in everyone)

    ann.until(meshed, "all are connected with all", 120)
    ann.until(lambda: all_opened(nodes), "all have data channels", 120)
    with capsys.disabled():
        sys.stdout.write(f"\n{shown(every_path(nodes))}\n")
    assert "direct" in nodes["ann"].paths()["bob"]

    big = stage.folder / "checkpoint.bin"
    big.write_bytes(os.urandom(100_000_000))
    cid = nodes["cyd"].run("put", str(big))  # from behind the symmetric one
    for name in ("ann", "dot"):
        out = stage.folder / f"{name}.bin"
        nodes[name].run("get", cid, "--out", str(out), timeout_s=240)
        assert out.read_bytes() == big.read_bytes()
    assert all_level(everyone) != first

    for name in ("ann", "eve"):  # the first of all, and another
        nodes[name].kill()
        nodes[name].up()
        all_level(everyone, 120)

    two = [stage.places[name] for name in ("ann", "bob")]
    three = [stage.places[name] for name in ("cyd", "dot", "eve")]
    stage.lab.partition([*two, stage.relay_place], three)
    put(nodes["ann"], stage.folder / "said-by-two", b"two")
    put(nodes["dot"], stage.folder / "said-by-three", b"three")
    assert names(nodes["ann"]) != names(nodes["dot"])
    stage.lab.heal()
    all_level(everyone, 180)
    assert {"said-by-two", "said-by-three"} <= names(nodes["eve"])
    assert {node.ask("verify")["good"] for node in everyone} == {True}


def all_opened(nodes):
    found = every_path(nodes)
    words = [path for paths in found.values() for path in paths.values()]
    return all("control only" not in w and "waiting" not in w for w in words)


def put(node, path, data):
    path.write_bytes(data)
    node.run("put", str(path))


def names(node):
    return {item["name"] for item in node.status()["contents"]}


def shown(paths):
    rows = [(a, b, way) for a, found in paths.items() for b, way in found.items()]
    return "\n".join(f"{a} ({KINDS[a]}) -> {b}: {way}" for a, b, way in rows)
