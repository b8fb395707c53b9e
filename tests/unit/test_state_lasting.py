"""Replicas whose disks are full for a while: what was acknowledged stays."""

import random

import pytest

from fedcore.errors import StorageError
from p2p.identity.keys import Key
from p2p.machine import Answered, Asked, Note, Refuse
from p2p.state.bodies import Count
from p2p.state.chain import Kind
from p2p.state.lasting import Lasting
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from p2p.state.talks import Habits
from tests.state_world import NETWORK, WHEN_S, World, opening_of


class Full(MemoryLogStore):
    """A store on a disk that may be full; ``left`` changes still fit."""

    def __init__(self):
        super().__init__()
        self.left = float("inf")

    def check_room(self):
        if self.left < 1:
            raise StorageError("free some space")

    def commit(self, least_bytes=0):
        if self._since and not least_bytes:
            self.check_room()
        super().commit(least_bytes)

    def _do(self, what, *given):
        self.check_room()
        self.left -= 1
        super()._do(what, *given)


def test_it_says_once_that_long_logs_do_not_grow_here():
    world = Filling(9, 2)
    world.settle()
    node = world.nodes[0]
    world.run(world.now_s + 5)
    assert not [note for note in node.notes if note.kind == "state"]
    node.replica.logs.quota_bytes = 2 * node.replica.logs.held_bytes
    world.run(world.now_s + 5)
    notes = [note.words for note in node.notes if note.kind == "state"]
    assert len(notes) == 1
    assert "raise limit.state_gb" in notes[0]


class Filling(World):
    """Replicas that last, on disks that may be full."""

    def node(self, number, store):
        return super().node(number, Full())

    def start(self, node, *, fresh=False):
        super().start(node, fresh=fresh)
        replicas = [node.replica]
        node.replica = Lasting(
            node.store, lambda: replicas.pop() if replicas else self.made(node)
        )

    def made(self, node):
        key, opening = opening_of(node.number)
        draw = random.Random(self.rng.random())
        habits = Habits(False, self.period_s, fresh_key=lambda: Key(draw.randbytes(32)))
        given = key, NETWORK, opening, node.store, draw, lambda: WHEN_S, habits
        return Replica(*given)


def said(number):
    return [(Kind.COUNT, Count(f"n{number}", 1).encode())]


def counted(node):
    return {name for name, sums in node.replica.view.counters.items() if sums}


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_is_with_all_when_there_is_room_again(seed):
    world = Filling(seed, 3)
    world.run(5.0)
    acknowledged, refused = set(), 0
    for number in range(60):
        world.run(world.now_s + world.rng.uniform(0.0, 1.0))
        node = world.rng.choice(world.nodes)
        if world.rng.random() < 0.3:
            full = node.store.left < 1
            node.store.left = float("inf") if full else world.rng.randrange(4)
        try:
            world.write(node, said(number))
            acknowledged.add(f"n{number}")
        except StorageError:
            refused += 1
    for node in world.nodes:
        node.store.left = float("inf")
    world.run(world.now_s + 60)
    assert refused
    assert len({node.replica.root() for node in world.nodes}) == 1
    assert all(counted(node) == acknowledged for node in world.nodes)
    assert not any(node.replica.why for node in world.nodes)
    assert not any(log.fork for log in world.nodes[0].replica.logs.by_writer.values())


def test_a_full_disk_is_said_and_what_needs_it_is_refused():
    world = Filling(1, 2)
    world.run(5.0)
    ann, bob = world.nodes
    ann.store.left = 0
    before = ann.replica.root()
    with pytest.raises(StorageError, match="free some space"):
        world.write(ann, said(1))
    assert ann.replica.why == "free some space"
    assert ann.replica.root() == before  # and not what the disk did not take
    [refused] = ann.replica.step(world.now_s, Asked(bob.name, "/state/1", b"", 7))
    assert refused == Refuse(7, "the disk here takes nothing; ask others")
    world.write(bob, said(2))
    world.run(world.now_s + 20)
    assert ann.replica.root() == before
    ann.store.left = float("inf")
    world.run(world.now_s + 20)
    assert counted(ann) == counted(bob) == {"n2"}
    words = [note.words for note in ann.notes if note.kind == "disk"]
    assert words == ["the disk takes writes again"]
    assert ann.replica.ready


def test_answers_to_a_replica_that_is_no_more_are_passed_over():
    world = Filling(1, 2)
    world.run(5.0)
    ann, bob = world.nodes
    asked = [e.ticket for e in ann.replica._said(ann.replica._now._talks.next())]
    ann.store.left = 0
    with pytest.raises(StorageError):
        world.write(ann, said(1))
    ann.store.left = float("inf")
    world.run(world.now_s + 20)
    late = Answered(bob.name, asked[0] if asked else 1, b"nonsense")
    assert ann.replica.step(world.now_s, late) == ()


def test_a_step_that_finds_the_disk_full_says_so_once():
    world = Filling(1, 2)
    world.run(5.0)
    ann, bob = world.nodes
    ann.store.left = 0
    world.write(bob, said(1))
    world.run(world.now_s + 30)
    words = [note for note in ann.notes if note.kind == "disk"]
    assert words == [Note("disk", "nothing more is written: free some space")]


def test_a_peer_that_is_alone_goes_on_with_its_own_log():
    world = Filling(1, 1)
    world.run(5.0)
    (ann,) = world.nodes
    world.write(ann, said(1))
    ann.store.left = 0
    with pytest.raises(StorageError):
        world.write(ann, said(2))
    ann.store.left = float("inf")
    world.run(world.now_s + 20)
    world.write(ann, said(3))  # nobody can be asked how far it is known, nor need be
    assert len(ann.replica.heads()) == 1
    assert counted(ann) == {"n1", "n3"}
