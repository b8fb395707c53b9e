"""Many peers find what any of them has, whoever is lost, gone or lying."""

import random

import pytest

from p2p.content.adding import add_bytes, read_bytes
from p2p.content.cid import cid_of
from p2p.content.library import Library
from p2p.content.lookup import LIFE_S, Lookup
from p2p.content.records import NEAR, WHO, K
from p2p.content.search import Found
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.content.swarm import Ended, Swarm
from p2p.identity.keys import Key
from sims.bench.hops import Hops

START = 1_900_000_000.0
KEYS = [Key(i.to_bytes(32, "big")) for i in range(1, 101)]


def joined(count, seed=0, drop=0.0, make=None):
    """Return peers of whom each knew one earlier peer when it came."""
    hops, dice = Hops(seed), random.Random(seed)
    peers = [key.peer for key in KEYS[:count]]
    for i, key in enumerate(KEYS[:count]):
        rng = random.Random(seed * 1000 + i)
        lookup = Lookup(key, "net", rng, lambda: START + hops.now_s)
        hops.add(peers[i], make(lookup, rng) if make else lookup)
        if i:
            hops.link(peers[i], peers[dice.randrange(i)])
        hops.run(hops.now_s + 1)
    hops.run(hops.now_s + 120)
    hops.drop = drop
    return hops, peers


def provide(hops, peer, cid):
    hops.do(peer, hops.machines[peer].provide(hops.now_s, cid))
    hops.run(hops.now_s + 60)


def providers(hops, peer, cid):
    hops.told.clear()
    hops.do(peer, hops.machines[peer].find(hops.now_s, cid))
    assert hops.run(
        hops.now_s + 400,
        lambda: any(isinstance(e, Found) and e.over for _, e in hops.told),
    )
    found = [e for who, e in hops.told if who == peer and isinstance(e, Found)]
    return [provider for e in found for provider in e.peers], found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_what_one_peer_has_all_find(drop):
    hops, peers = joined(40, drop=drop)
    cid = cid_of(b"blob")
    provide(hops, peers[7], cid)
    for peer in peers[::6]:
        found, end = providers(hops, peer, cid)
        assert found == [peers[7]]
        assert end.hops <= 5


@pytest.mark.slow
def test_what_nobody_has_nobody_finds():
    hops, peers = joined(20)
    found, end = providers(hops, peers[3], cid_of(b"missing"))
    assert found == []
    assert end.asks >= 8


def test_a_small_mesh_is_asked_whole():
    hops, peers = joined(K)
    cid = cid_of(b"blob")
    provide(hops, peers[0], cid)
    hops.asks.clear()
    found, end = providers(hops, peers[5], cid)
    assert found == [peers[0]]
    assert end.asks == hops.asks[WHO] == K - 1


@pytest.mark.slow
def test_records_outlive_half_of_the_peers_and_are_forgotten_with_their_provider():
    hops, peers = joined(40)
    cid = cid_of(b"blob")
    provide(hops, peers[0], cid)
    for peer in peers[1:40:2]:
        hops.kill(peer, known=False)
    assert providers(hops, peers[2], cid)[0] == [peers[0]]
    hops.run(hops.now_s + 2 * LIFE_S)  # renewed all the time
    assert providers(hops, peers[2], cid)[0] == [peers[0]]
    hops.machines[peers[0]].withdraw(cid)
    hops.run(hops.now_s + LIFE_S + 60)
    assert providers(hops, peers[2], cid)[0] == []


@pytest.mark.slow
def test_an_idle_mesh_is_quiet():
    hops, _ = joined(20)
    hops.run(hops.now_s + 600)
    hops.asks.clear()
    hops.run(hops.now_s + 3600)
    assert hops.asks.total() / 20 / 3600 < 0.1  # asks of a peer in a second
    assert hops.asks[NEAR] > 0


def library(space, quota=1 << 30):
    def make(lookup, rng):
        return Library(Swarm(Shelf(space(), quota_bytes=quota), rng), lookup)

    return make


@pytest.mark.slow
def test_a_library_finds_fetches_and_provides():
    """The only source is a peer that the other has never been linked with."""
    hops, peers = joined(30, make=library(MemorySpace))
    data = random.Random(1).randbytes(600_000)
    source, me = hops.machines[peers[3]], hops.machines[peers[20]]
    cid = add_bytes(source.shelf, data)
    hops.do(peers[3], source.added(hops.now_s, cid))
    hops.run(hops.now_s + 30)
    hops.do(peers[20], me.want(hops.now_s, cid))
    ended = (peers[20], Ended(cid, ""))
    assert hops.run(hops.now_s + 60, lambda: ended in hops.told)
    assert read_bytes(me.shelf, cid) == data
    assert [blob.cid for blob in me.whole()] == [cid]
    hops.run(hops.now_s + 60)
    hops.told.clear()
    hops.do(peers[11], hops.machines[peers[11]].find(hops.now_s, cid))
    hops.run(hops.now_s + 60)
    named = [
        p
        for who, e in hops.told
        if who == peers[11] and isinstance(e, Found)
        for p in e.peers
    ]
    assert sorted(named) == sorted([peers[3], peers[20]])


def test_a_library_that_starts_again_provides_what_it_has_and_no_more():
    space = MemorySpace()
    cid = add_bytes(Shelf(space), b"x" * 1000)
    hops, peers = joined(5, make=library(MemorySpace))
    lookup = Lookup(KEYS[50], "net", random.Random(0), lambda: START + hops.now_s)
    again = library(lambda: space)(lookup, random.Random(0))
    hops.add(KEYS[50].peer, again)
    hops.link(KEYS[50].peer, peers[0])
    hops.run(hops.now_s + 60)
    assert lookup.provided == {cid}
    assert hops.machines[peers[2]].lookup.notices.of(cid, hops.now_s)
    again.shelf.remove(cid)
    hops.run(hops.now_s + 60)
    assert lookup.provided == set()
