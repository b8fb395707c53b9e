"""libp2p's own hole punching, and who is told to be reachable, behind real routers."""

import sys

import pytest

from p2p.identity.keys import Key
from sims.natlab.lab import Lab
from tests.nat.stage import Actor

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PROGRAM = """
import json, random, sys, time
from p2p.identity.keys import Key
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.parts import Punching, Reachable, Relayed, Relaying
from p2p.libp2p.thread import MeshThread

seed, ip, relay, target = int(sys.argv[1]), *sys.argv[2:5]
rng = random.Random(seed)
relayed = Relayed([relay] if relay else [], rng, from_port=True)
reachable = Reachable(rng)
parts = [relayed, Punching(), reachable] if relay else [Relaying(), reachable]
key = Key(bytes([seed]) * 32)
said = set()

def say(event, **more):
    line = json.dumps({"event": event, **more})
    if line not in said:
        said.add(line)
        print(line, flush=True)

with MeshThread(Libp2pConfig(key, [f"/ip4/{ip}/tcp/4001"], parts)) as mesh:
    say("ready")
    while True:
        circuits = [a for a in mesh.addresses() if "p2p-circuit" in a]
        if circuits or not relay:
            say("reserved")
        if circuits and target and target not in mesh.peers():
            mesh.connect([f"{relay}/p2p-circuit/p2p/{target}"], 10).exception()
        for peer in mesh.peers():
            path = mesh.path(peer)
            if path:
                say(path.kind, peer=peer)
        say("reachable", kind=reachable.kind)
        time.sleep(0.1)
"""


def start(lab, place, seed, relay="", target=""):
    command = [sys.executable, "-c", PROGRAM, str(seed), place.ip, relay, target]
    return Actor(place.name, lab.start(place, *command))


@pytest.fixture(scope="module")
def couples():
    """Return, by kind of router, two peers behind two such, and their ids."""
    kinds = ("port-restricted", "shifting", "symmetric")
    with Lab() as lab:
        public = lab.host("relay")
        start(lab, public, 1)
        relay = f"/ip4/{public.ip}/tcp/4001/p2p/{Key(bytes([1]) * 32).peer}"
        found = {}
        for seed, kind in zip(range(2, 8, 2), kinds, strict=True):
            ids = [Key(bytes([i]) * 32).peer for i in (seed, seed + 1)]
            homes = [lab.home(f"{kind}-{name}", kind) for name in ("ann", "bob")]
            ann = start(lab, homes[0], seed, relay)
            bob = start(lab, homes[1], seed + 1, relay, ids[0])
            found[kind] = (ann, ids[0]), (bob, ids[1])
        yield found


@pytest.mark.parametrize(
    ("kind", "way"),
    [("port-restricted", "direct"), ("shifting", "direct"), ("symmetric", "relayed")],
)
def test_a_circuit_between_two_homes_becomes_direct_where_it_can(couples, kind, way):
    (ann, ann_id), (bob, bob_id) = couples[kind]
    for actor, other in ((ann, bob_id), (bob, ann_id)):
        until_said(actor, {"event": "relayed", "peer": other})
        until_said(actor, {"event": way, "peer": other})
    until_said(ann, {"event": "reachable", "kind": "private"})
    direct = {"event": "direct", "peer": bob_id} in ann.said
    assert direct == (way == "direct")


def until_said(actor, words):
    if words not in actor.said:
        actor.wait(lambda new: new == words, 30)
