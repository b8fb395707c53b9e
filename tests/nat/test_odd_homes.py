"""Whole nodes where little is as usual: a relay in a cloud, no IPv4, a dead invite."""

import pytest

from sims.natlab.lab import Lab
from sims.natlab.spaces import ip
from tests.nodes import QUIET, Node, all_level, stop_all

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]
NO_ROUTER = ["--set", "find.map_ports=false"]


@pytest.fixture
def town(tmp_path):
    """Return a lab, and a function that starts a node at one of its places."""
    nodes = []

    def settle(place, *words, ways=None):
        node = Node(tmp_path / place.name, lab.inside(place))
        words = [*words, "--set", f"name={place.name}"]
        if nodes:
            node.run("join", nodes[0].run("invite"), *words)
        else:
            node.run("init", "town", *words)
        if ways is not None:
            (node.home / "ways").write_text(ways)
        nodes.append(node)
        if len(nodes) == 1:
            return node.up()
        node.begin("up", "-v")
        return node

    with Lab() as lab:
        yield lab, settle
        stop_all(nodes)


def all_joined(nodes):
    """Wait until all have channels to all others."""

    def joined():
        found = [n.status()["peers"] for n in nodes]
        rows = [p for peers in found for p in peers if p["channel"]]
        return len(rows) == len(nodes) * (len(nodes) - 1)

    all_level(nodes, 90)
    nodes[0].until(joined, "all have channels to all", 90)


def test_a_member_relays_for_two_that_cannot_reach_each_other(town):
    lab, settle = town
    cloud = lab.home("ann", "port-restricted")
    lab.expose(cloud)
    relay = ["--set", "relay.serve=true", "--set", f"relay.address={cloud.wan}"]
    ann = settle(cloud, *QUIET, *relay)
    bob, cyd = (settle(lab.home(n, "symmetric"), *QUIET) for n in ("bob", "cyd"))
    all_joined([ann, bob, cyd])
    me = ann.status()["peer"]
    assert bob.paths() == {"ann": "direct (public address)", "cyd": f"relayed by {me}"}
    assert cyd.paths() == {"ann": "direct (public address)", "bob": f"relayed by {me}"}


def test_machines_without_ipv4_meet_and_may_move(town):
    lab, settle = town
    places = [lab.host(name) for name in ("ann", "bob")]
    for place in places:
        ip(place.space, f"addr del {place.ip}/24 dev wan")
    ann, bob = (settle(place, *QUIET) for place in places)
    all_joined([ann, bob])
    assert bob.paths() == {"ann": "direct (public address)"}
    old = next(a.split("/")[2] for a in bob.status()["addresses"] if "2a0f" in a)
    ip(places[1].space, f"addr del {old}/64 dev wan")
    ip(places[1].space, f"addr add {old}99/64 dev wan nodad")
    bob.until(lambda: "this machine is now at" in bob.notes(), "it has moved")
    bob.until(lambda: any(f"{old}99" in a for a in bob.status()["addresses"]), "there")
    all_joined([ann, bob])


def test_neighbours_find_each_other_when_no_address_of_the_invite_works(town):
    lab, settle = town
    first = lab.home("ann", "symmetric")
    ann = settle(first, *NO_ROUTER)
    gone = f"/ip4/192.0.2.9/tcp/4001/p2p/{ann.status()['peer']}\n"
    beside = lab.home("bob", "symmetric", beside=first)
    bob = settle(beside, *NO_ROUTER, ways=gone)
    all_joined([ann, bob])
    assert bob.paths() == {"ann": "direct (same network)"}
