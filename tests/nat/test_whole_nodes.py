"""Five real nodes behind five kinds of router become one mesh from one invite.

Their relay is in a cloud: it does not know its public address. One of them starts
before its network is up.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sims.natlab.lab import Lab
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
        self.lab, self.folder = lab, folder
        self.cloud = lab.home("relay", "port-restricted")
        lab.expose(self.cloud)
        self.relay = Node(folder / "relay", lab.inside(self.cloud))
        self.relay.begin("relay", "--port", "4001")
        self.places = {name: lab.home(name, kind) for name, kind in KINDS.items()}
        self.nodes = {name: self.node(name) for name in KINDS}
        self.relay.until(lambda: "relay at" in self.relay.log(), "it relays")
        me = self.relay.log().split("/p2p/")[1].split()[0]
        self.address = f"/ip4/{self.cloud.wan}/tcp/4001/p2p/{me}"

    def node(self, name):
        return Node(self.folder / name, self.lab.inside(self.places[name]))

    def settings(self, name):
        return [*QUIET, "--set", f"name={name}", "--set", f"find.relays={self.address}"]


def every_path(nodes):
    return {name: node.paths() for name, node in nodes.items()}


def test_five_nodes_behind_five_routers(tmp_path, capsys):
    with Lab() as lab:
        stage = Stage(lab, tmp_path)
        try:
            scene(stage, stage.nodes, capsys)
        finally:
            stop_all([stage.relay, *stage.nodes.values()])


def scene(stage, nodes, capsys):
    ann, *others = everyone = list(nodes.values())
    ann.run("init", "five", *stage.settings("ann"))
    ann.up()
    ann.until(
        lambda: any("p2p-circuit" in a for a in ann.status()["addresses"]), "relay"
    )
    invite = ann.run("invite")

    def join(name):
        nodes[name].run("join", invite, *stage.settings(name))
        nodes[name].begin("up", "-v")

    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(join, [name for name in nodes if name != "ann"]))
    first = all_level(everyone, 120)

    def meshed():
        return all(len(n.status()["peers"]) == 4 == len(n.paths()) for n in everyone)

    ann.until(meshed, "all are connected with all", 120)
    ann.until(lambda: all_opened(nodes), "all have data channels", 120)
    with capsys.disabled():
        sys.stdout.write(f"\n{shown(every_path(nodes))}\n")
    assert "direct" in ann.paths()["bob"]
    said = lambda: f"relay at {stage.address}" in stage.relay.log()  # noqa: E731
    stage.relay.until(said, "the relay has learned its public address")

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
    stage.lab.unplug(stage.places["eve"])
    for name in ("ann", "eve"):
        nodes[name].begin("up", "-v")
    nodes["eve"].until(lambda: nodes["eve"].status()["state"] == "waiting", "it waits")
    stage.lab.plug(stage.places["eve"])
    all_level(everyone, 120)

    two = [stage.places[name] for name in ("ann", "bob")]
    three = [stage.places[name] for name in ("cyd", "dot", "eve")]
    stage.lab.partition([*two, stage.cloud], three)
    put(ann, stage.folder / "said-by-two", b"two")
    put(nodes["dot"], stage.folder / "said-by-three", b"three")
    assert names(ann) != names(nodes["dot"])
    stage.lab.heal()
    all_level(everyone, 180)
    assert {"said-by-two", "said-by-three"} <= names(nodes["eve"])
    with ThreadPoolExecutor(len(everyone)) as pool:
        assert all(pool.map(lambda node: node.ask("verify")["good"], everyone))


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
