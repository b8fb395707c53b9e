"""A download always ends whole if one honest source holds each chunk, whoever lies.

Every schedule (delays, losses, deaths, restarts, lies) follows from one seed.
"""

import random
from collections import Counter

import pytest

from p2p.content.adding import add_bytes, read_bytes
from p2p.content.asks import (
    CHUNK,
    MANIFEST,
    TOPIC,
    WHAT,
    Wanted,
    decode_ask,
    encode_ask,
    encode_stock,
)
from p2p.content.manifest import KIB, encode_manifest, manifest_of
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.content.swarm import Ended, Swarm
from p2p.machine import Answer, Asked, Note, Refuse, Wake, Woken
from sims.bench.hops import Hops

SIZE = 256 * KIB


class Liar:
    """Says that it has all, and sends something else, or nothing."""

    topics = (TOPIC,)

    def __init__(self, manifest, how):
        self.manifest, self.how = manifest, how

    def step(self, now_s, event):
        if not isinstance(event, Asked):
            return []
        ask = decode_ask(event.body)
        body = {
            WHAT: encode_stock(b"\1" * self.manifest.chunks),
            MANIFEST: encode_manifest(self.manifest),
            CHUNK: b"x" * SIZE,
        }[ask.kind]
        if self.how == "silent" and ask.kind != WHAT:
            return []
        if self.how == "refuses" and ask.kind != WHAT:
            return [Refuse(event.ticket, "no")]
        if self.how == "stock" and ask.kind == WHAT:
            return [Answer(event.ticket, b"\2" + b"\xff" * 3999)]
        if self.how == "manifest" and ask.kind == MANIFEST:
            return [Answer(event.ticket, encode_manifest(manifest_of(b"other")))]
        return [Answer(event.ticket, body)]


def swarm(seed, space, **given):
    return Swarm(Shelf(space), random.Random(seed), **given)


def mesh(hops, machines):
    for peer, machine in machines.items():
        hops.add(peer, machine)
    names = list(machines)
    for i, a in enumerate(names):
        for b in names[:i]:
            hops.link(a, b)


def wanting(hops, peer, cid, **given):
    hops.do(peer, hops.machines[peer].want(hops.now_s, cid, **given))


def endings(hops, peer):
    return [e for who, e in hops.told if who == peer and isinstance(e, Ended)]


def notes(hops, peer):
    return [e for who, e in hops.told if who == peer and isinstance(e, Note)]


def split_among(data, holders, draw):
    """Give each chunk to one or two of ``holders``."""
    manifest = manifest_of(data)
    shelves = [Shelf(MemorySpace()) for _ in range(holders)]
    for shelf in shelves:
        shelf.begin(manifest)
    for index in range(manifest.chunks):
        begin, size = manifest.span(index)
        for shelf in draw.sample(shelves, draw.randint(1, min(2, holders))):
            shelf.keep(manifest.cid, index, data[begin : begin + size])
        shelf.release(manifest.cid)
    return manifest, shelves


def run_one(seed, chunks, drop):
    """Run one schedule; return what is to be checked."""
    draw = random.Random(seed)
    data = draw.randbytes(chunks * SIZE - 9)
    manifest, shelves = split_among(data, draw.randint(1, 3), draw)
    hops = Hops(seed, drop=drop, delay_s=(0.001, 0.2))
    hows = ["chunk", "silent", "refuses", "stock", "manifest"]
    machines = {f"h{i}": Swarm(s, random.Random(i)) for i, s in enumerate(shelves)}
    for machine in machines.values():
        machine._started = True  # holders do not fetch what they lack
    machines |= {f"l{how}": Liar(manifest, how) for how in hows}
    space = MemorySpace()
    mesh(hops, {**machines, "me": swarm(seed, space)})
    wanting(hops, "me", manifest.cid)
    for _ in range(draw.randint(0, 2)):  # power cuts
        hops.run(hops.now_s + draw.uniform(0.1, 3.0))
        if not endings(hops, "me"):
            space.crash()
            hops.add("me", swarm(seed, space))
            for other in machines:
                hops.link("me", other)
            if not endings(hops, "me"):
                wanting(hops, "me", manifest.cid)
    whole = hops.run(hops.now_s + 3000, lambda: bool(endings(hops, "me")))
    return hops, manifest, data, space, whole


def check_one(seed, chunks, drop):
    hops, manifest, data, space, whole = run_one(seed, chunks, drop)
    assert whole, f"seed {seed} did not end"
    assert endings(hops, "me")[-1] == Ended(manifest.cid, "")
    assert read_bytes(Shelf(space), manifest.cid) == data
    named = {n.peer for n in notes(hops, "me") if n.kind.startswith("bad-")}
    assert named <= {"lchunk", "lstock", "lmanifest"}


@pytest.mark.parametrize("seed", range(6))
def test_a_download_ends_whole_whoever_lies(seed):
    check_one(seed, 3 + seed % 5, (0.0, 0.1, 0.3)[seed % 3])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_many_downloads_end_whole_whoever_lies(block):
    for seed in range(100 + 50 * block, 150 + 50 * block):
        check_one(seed, 1 + seed % 9, (0.0, 0.05, 0.2)[seed % 3])


def test_the_same_seed_gives_the_same_schedule():
    one, two = [run_one(3, 6, 0.1)[0] for _ in range(2)]
    assert (one.now_s, one.asks, one.told) == (two.now_s, two.asks, two.told)


def test_each_chunk_comes_once_and_from_all_sources():
    data = random.Random(1).randbytes(24 * SIZE)
    hops = Hops(1, bytes_s={f"s{i}": 4e6 for i in range(4)})
    machines = {}
    for i in range(4):
        shelf = Shelf(MemorySpace())
        cid = add_bytes(shelf, data)
        machines[f"s{i}"] = Swarm(shelf, random.Random(i))
    space = MemorySpace()
    mesh(hops, {**machines, "me": swarm(9, space)})
    wanting(hops, "me", cid)
    progress = []
    assert hops.run(
        600,
        lambda: (
            bool(endings(hops, "me"))
            or progress.append(hops.machines["me"].progress(cid, hops.now_s))
            is not None
        ),
    )
    sent = [hops.sent_bytes[f"s{i}"] for i in range(4)]
    assert min(sent) > 3 * SIZE
    assert sum(sent) < len(data) + 8 * SIZE + 4000  # at most 8 chunks twice
    assert hops.now_s < 1.5 * len(data) / 16e6 + 1  # as fast as the four together
    kept = [p.kept_bytes for p in progress]
    assert kept == sorted(kept)
    assert max(p.bytes_s for p in progress) > 1e6
    assert {len(p.sources) for p in progress} >= {0, 4}


def test_peers_that_start_together_serve_each_other():
    """One source with a slow line: it sends each chunk about once, not five times."""
    data = random.Random(1).randbytes(20 * SIZE)
    shelf = Shelf(MemorySpace())
    cid = add_bytes(shelf, data)
    lines = {f"p{i}": 20e6 for i in range(5)}
    hops = Hops(2, bytes_s={"origin": 2e6, **lines})
    peers = {name: swarm(i, MemorySpace()) for i, name in enumerate(lines)}
    mesh(hops, {"origin": Swarm(shelf, random.Random(0)), **peers})
    for name in peers:
        wanting(hops, name, cid)
    assert hops.run(600, lambda: all(endings(hops, name) for name in peers))
    assert hops.sent_bytes["origin"] < 2.6 * len(data)


def test_a_slow_source_is_routed_around():
    data = random.Random(1).randbytes(16 * SIZE)
    hops = Hops(3, bytes_s={"slow": 2e4, "fast": 1e7})
    machines = {}
    for name in ("slow", "fast"):
        shelf = Shelf(MemorySpace())
        cid = add_bytes(shelf, data)
        machines[name] = Swarm(shelf, random.Random(0))
    mesh(hops, {**machines, "me": swarm(9, MemorySpace())})
    wanting(hops, "me", cid)
    assert hops.run(60, lambda: bool(endings(hops, "me")))
    assert hops.now_s < 5  # one chunk of the slow one takes 13 s


def test_a_source_that_dies_is_replaced():
    data = random.Random(1).randbytes(16 * SIZE)
    hops = Hops(3, bytes_s={"a": 4e6, "b": 4e6})
    machines = {}
    for name in "ab":
        shelf = Shelf(MemorySpace())
        cid = add_bytes(shelf, data)
        machines[name] = Swarm(shelf, random.Random(0))
    mesh(hops, {**machines, "me": swarm(9, MemorySpace())})
    wanting(hops, "me", cid)
    hops.run(0.5)
    hops.kill("a", known=False)
    assert hops.run(300, lambda: bool(endings(hops, "me")))


def test_damage_at_the_source_is_mended_from_elsewhere():
    data = random.Random(1).randbytes(4 * SIZE)
    hops, spaces = Hops(4), {name: MemorySpace() for name in ("torn", "good", "me")}
    machines = {name: swarm(0, space) for name, space in spaces.items()}
    for name in ("torn", "good"):
        cid = add_bytes(machines[name].shelf, data)
    spaces["torn"].write(f"{cid}.blob", SIZE + 1, b"xx")
    mesh(hops, machines)
    wanting(hops, "me", cid)
    ended = lambda: bool(endings(hops, "me") and endings(hops, "torn"))  # noqa: E731
    assert hops.run(300, ended)
    assert [n.kind for n in notes(hops, "torn")] == ["damage", "fetched"]
    assert read_bytes(machines["torn"].shelf, cid) == data
    assert not [n for n in notes(hops, "me") if n.kind.startswith("bad-")]


@pytest.mark.parametrize(
    ("given", "quota", "why"),
    [
        ({"limit_bytes": 3 * SIZE}, 99, "at most 786432"),
        ({}, 3, "quota"),
    ],
)
def test_what_cannot_be_kept_fails_with_a_reason(given, quota, why):
    hops, source = Hops(5), swarm(0, MemorySpace())
    cid = add_bytes(source.shelf, random.Random(1).randbytes(4 * SIZE))
    me = Swarm(Shelf(MemorySpace(), quota_bytes=quota * SIZE), random.Random(1))
    mesh(hops, {"source": source, "me": me})
    wanting(hops, "me", cid, **given)
    assert hops.run(60, lambda: bool(endings(hops, "me")))
    assert why in endings(hops, "me")[0].why
    assert me.shelf.blobs() == []
    assert me.wanted == []


def test_patience_ends_and_a_cancelled_blob_is_forgotten():
    data = random.Random(1).randbytes(4 * SIZE)
    hops, me = Hops(6), swarm(0, MemorySpace())
    manifest, (shelf,) = split_among(data, 1, random.Random(0))
    half = Shelf(MemorySpace())
    half.begin(manifest)
    half.keep(manifest.cid, 0, data[:SIZE])
    half.release(manifest.cid)
    holder = Swarm(half, random.Random(0))
    holder._started = True
    mesh(hops, {"half": holder, "me": me})
    wanting(hops, "me", manifest.cid, patience_s=50)
    assert hops.run(300, lambda: bool(endings(hops, "me")))
    assert 50 < hops.now_s < 60
    assert "no good chunk for 50 s" in endings(hops, "me")[0].why
    assert me.shelf.blob(manifest.cid).kept == 1  # and is there for the next try
    wanting(hops, "me", manifest.cid)
    hops.do("me", me.cancel(hops.now_s, manifest.cid))
    assert endings(hops, "me")[-1].why == "cancelled"
    assert me.shelf.blobs() == []
    assert shelf.blob(manifest.cid).whole


def test_a_flood_of_asks_is_refused_and_others_are_served():
    """One peer asks for a thousand chunks at once, another for four."""
    space, data = MemorySpace(), random.Random(1).randbytes(4 * SIZE)
    server = swarm(0, space, up_bytes_s=1e6)
    cid = add_bytes(server.shelf, data)
    hops, me = Hops(7), swarm(1, MemorySpace())
    mesh(hops, {"server": server, "me": me})
    ask = encode_ask(Wanted(CHUNK, cid, 0))
    answers = [
        effect
        for ticket in range(-1000, 0)
        for effect in server.step(0.0, Asked("flood", TOPIC, ask, ticket))
    ]
    kinds = Counter(type(effect) for effect in answers)
    assert kinds[Answer] == 64  # a burst of 16 MiB
    assert kinds[Refuse] == 1000 - 64 - 48  # and a queue of 48
    wanting(hops, "me", cid)
    for alarm in answers:  # those of the flood lead nowhere
        if isinstance(alarm, Wake):
            hops.do("server", [alarm])
    hops.do = lambda peer, effects, do=hops.do: do(
        peer, [e for e in effects if not (isinstance(e, Answer) and e.ticket < 0)]
    )
    assert hops.run(60, lambda: bool(endings(hops, "me")))
    assert hops.now_s < 8  # its 4 chunks take turns with 4 of the flood, not 48


def test_a_large_part_is_hashed_in_slices_while_others_are_served(monkeypatch):
    monkeypatch.setattr("p2p.content.swarm.SLICE_BYTES", 2 * SIZE)
    space, data = MemorySpace(), random.Random(1).randbytes(9 * SIZE)
    manifest = manifest_of(data)
    shelf = Shelf(space)
    shelf.begin(manifest)
    for index in range(8):
        begin, size = manifest.span(index)
        shelf.keep(manifest.cid, index, data[begin : begin + size])
    shelf = Shelf(space)
    machine, hashed = Swarm(shelf, random.Random(1)), []
    fits = type(manifest).fits
    monkeypatch.setattr(
        type(manifest), "fits", lambda *given: hashed.append(1) or fits(*given)
    )
    steps = []
    while not steps or machine.progress(manifest.cid, 0.0).words.startswith("check"):
        hashed.clear()
        effects = machine.step(0.0, Woken())
        steps.append(len(hashed))
        if len(steps) < 6:
            assert Wake(0.0) in effects  # go on at once, after what else is waiting
            asked = Asked("bob", TOPIC, encode_ask(Wanted(WHAT, manifest.cid)), 7)
            assert [e.ticket for e in machine.step(0.0, asked) if isinstance(e, Answer)]
    assert steps == [0, 2, 2, 2, 2, 0]
    assert "looking for sources" in machine.progress(manifest.cid, 0.0).words
