"""Much data over a long way takes several channels, as many as bring more."""

import os

import pytest

from p2p.channel.width import MOST
from sims.natlab.lab import Lab
from sims.natlab.spaces import inside
from tests.nodes import QUIET, Node, stop_all

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]
DELAY_S = 0.0125  # of each of the two links; there and back is 50 ms
LIMIT = ["--set", "limit.up_mbit=80"]
SIZE = 45 << 20  # nearly five seconds


def node(lab, folder, name, founder=None):
    place = lab.host(name)
    made = Node(folder / name, inside(place.space, []))
    here = [*QUIET, *LIMIT, "--set", f"listen.addresses={place.ip}"]
    here += ["--set", f"name={name}", "--set", "keep_all=false"]
    if founder is None:
        made.run("init", "long", *here)
    else:
        made.run("join", founder.run("invite"), *here)
    return made.up()


def channels(node):
    return [peer["channels"] for peer in node.status()["peers"]]


def test_a_large_download_over_a_long_way_uses_several_channels(tmp_path):
    big, out = tmp_path / "big.bin", tmp_path / "out.bin"
    big.write_bytes(os.urandom(SIZE))
    nodes = []
    with Lab(delay_s=DELAY_S) as lab:
        try:
            nodes.append(ann := node(lab, tmp_path, "ann"))
            nodes.append(bob := node(lab, tmp_path, "bob", founder=ann))
            bob.until(lambda: channels(bob) == [1] == channels(ann), "a channel")
            cid = ann.run("put", str(big))
            assert 0.04 < bob.status()["peers"][0]["rtt_s"] < 0.5
            bob.run("get", cid, "--out", str(out), timeout_s=180)
            assert out.read_bytes() == big.read_bytes()
            assert channels(bob) == channels(ann)
            assert 1 < channels(bob)[0] < MOST  # under a cap more bring nothing
        finally:
            stop_all(nodes)
