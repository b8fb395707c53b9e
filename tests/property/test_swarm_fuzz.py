"""Whatever peers say, in whatever order: ProtocolError at most, nothing bad kept."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from p2p.content.adding import add_bytes
from p2p.content.asks import CHUNK, MANIFEST, TOPIC, WHAT, Wanted, encode_ask
from p2p.content.cid import cid_of
from p2p.content.manifest import KIB, encode_manifest, manifest_of
from p2p.content.shelf import Shelf
from p2p.content.slots import Slots
from p2p.content.space import MemorySpace
from p2p.content.swarm import Swarm
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Refuse,
    Told,
    Up,
    Woken,
)

SIZE = 256 * KIB
DATA = [bytes([i]) * SIZE for i in range(3)]
MANIFEST_ = manifest_of(b"".join(DATA))
HAVE = add_bytes(Shelf(MemorySpace()), b"served")
CIDS = [MANIFEST_.cid, HAVE, cid_of(b"none")]
BODIES = [
    b"",
    b"\0",
    b"\1",
    b"\2\5",
    b"\2\xff",
    encode_manifest(MANIFEST_),
    encode_manifest(MANIFEST_)[:-1],
    *DATA,
    b"x" * SIZE,
    b"x" * (SIZE + 1),
    *(encode_ask(Wanted(k, c, 1)) for k in (WHAT, MANIFEST, CHUNK) for c in CIDS),
]
peers = st.sampled_from("abcd")
bodies = st.one_of(st.sampled_from(BODIES), st.binary(max_size=70))
tickets = st.integers(0, 60)
events = st.one_of(
    st.builds(Up, peers),
    st.builds(Down, peers),
    st.builds(Told, peers, st.just(TOPIC), bodies),
    st.builds(Asked, peers, st.just(TOPIC), bodies, tickets),
    st.builds(Answered, peers, tickets, bodies),
    st.builds(Failed, peers, tickets, st.booleans(), st.just("why")),
    st.just(Woken()),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(events, max_size=60), st.randoms(use_true_random=False))
def test_no_order_of_words_does_harm(said, dice):
    swarm = Swarm(Shelf(MemorySpace()), random.Random(1))
    add_bytes(swarm.shelf, b"served")
    asks = [e for e in swarm.want(0.0, MANIFEST_.cid) if isinstance(e, Ask)]
    answered = []
    for now, event in enumerate(said):
        if isinstance(event, Answered) and asks:  # half of them as an answer to us
            ask = asks.pop(dice.randrange(len(asks)))
            event = Answered(ask.peer, ask.ticket, event.body)
        try:
            effects = swarm.step(float(now), event)
        except ProtocolError:
            assert isinstance(event, Told | Asked)
            continue
        asks += [e for e in effects if isinstance(e, Ask)]
        answered += [e for e in effects if isinstance(e, Answer | Refuse)]
        for index, here in enumerate(swarm.shelf.have(MANIFEST_.cid)):
            if here:
                assert swarm.shelf.chunk(MANIFEST_.cid, index) == DATA[index]
    assert len(swarm._calls) <= len(said) * 40
    assert {b.cid for b in swarm.shelf.blobs()} <= {MANIFEST_.cid, HAVE}


def test_peers_take_turns_and_wait_in_bounds():
    slots = Slots(bytes_s=10.0, per_peer=3, in_all=5, burst_bytes=20.0)
    slots._credit = 20.0
    assert [slots.offer("a", i) for i in range(4)] == [True, True, True, False]
    assert [slots.offer("b", i + 10) for i in range(3)] == [True, True, False]
    order = []
    now = 0.0
    while len(slots):
        item = slots.take(now)
        if item is None:
            now = slots.ready_s(now)
        else:
            order.append(item)
            slots.spend(10)
    assert order == [0, 10, 1, 11, 2]
    assert 2 < now < 3.1  # two at once, then one in a second
    slots.offer("a", 1)
    slots.drop("a")
    assert slots.ready_s(now) is None
