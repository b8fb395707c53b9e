"""Eager, lazy and tree are one sum, bit for bit, whatever the order and the shape."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.trainers.sgd import SGD
from fedcore.checkpoint import pack, unpack
from fedcore.coordinator import Coordinator, NoJournal
from fedcore.desk import Heard, Idle, Rules
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError
from fedcore.hierarchy.aggregate import InTurn
from fedcore.hierarchy.arena import BLOCK, FLOAT32, FLOAT64, INT64
from fedcore.hierarchy.eager import piled
from fedcore.hierarchy.folding import Order, Place
from fedcore.hierarchy.role import Merge, Total, Tree
from fedcore.hints import hint_of
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.partial import Partial, merged, summed
from fedcore.ring import LIMIT, ONE, encode
from fedcore.strategy import Update
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg
from tests.property.crashing import Memory, write_image
from tests.property.test_crash_points import PACERS as CRASH_PACERS
from tests.property.test_crash_points import Trial, Watched

QUICK = settings(deadline=None, max_examples=25)
numbers = st.floats(-1000, 1000, width=32)
drafts = st.lists(
    st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(1, 1000)),
    min_size=1,
    max_size=12,
)


def updates_of(drafts):
    return [
        Update(f"p{i}", i, {"w": torch.tensor(xs[:2]), "b": torch.tensor(xs[2])}, n)
        for i, (xs, n) in enumerate(drafts)
    ]


def bits(partial):
    update = partial.update()
    return digest(update.payload), update.examples, update.version


@given(drafts, st.randoms(use_true_random=False), st.integers(1, 7), st.integers(2, 4))
@QUICK
def test_eager_lazy_and_tree_have_the_same_bits(drafts, draw, leaves, fan_in):
    us = updates_of(drafts)
    lazy = bits(summed(us))
    eager = Partial()
    for u in draw.sample(us, len(us)):
        eager.add(u)
    tree = InTurn(leaves, fan_in)
    assert bits(eager) == lazy
    assert bits(tree.summed(draw.sample(us, len(us)))) == lazy
    assert bits(tree.summed(iter(us))) == lazy


def level_of(tree, aggregator):
    """Return how high ``aggregator`` was promoted; 0 is a leaf."""
    spots = [level for (level, _), who in tree.holders.items() if who == aggregator]
    return max(spots, default=0)


@given(drafts, st.randoms(use_true_random=False), st.integers(2, 5))
@QUICK
def test_any_order_of_events_in_a_tree_gives_the_flat_sum(drafts, draw, fan_in):
    us = updates_of(drafts)
    sums = {i: summed([u]) for i, u in enumerate(us)}
    tree = Tree.over(tuple(sums), fan_in)
    events, total, merges = list(sums), None, 0
    while events:
        event = events.pop(draw.randrange(len(events)))
        if isinstance(event, Merge):
            sums[event.into].merge(sums.pop(event.source))
            tree, effect = tree.merge_done(event)
        else:
            tree, effect = tree.leaf_done(event)
        if isinstance(effect, Merge):
            events.append(effect)
            merges += 1
        elif isinstance(effect, Total):
            assert total is None
            total = effect.holder
    assert list(sums) == [total]  # all others are free, every sum was used once
    assert merges == len(us) - 1
    assert bits(sums[total]) == bits(summed(us))
    assert level_of(tree, total) == len(tree.levels) - 1


def test_the_first_of_a_group_is_promoted_and_takes_the_others():
    tree = Tree.over((7, 8, 9), 2)
    tree, effect = tree.leaf_done(8)
    assert (effect, level_of(tree, 8)) == (None, 1)  # middle, of the group (7, 8)
    tree, merge = tree.leaf_done(7)
    assert merge == Merge(7, 8, (1, 0))
    tree, effect = tree.leaf_done(9)  # alone in its group: middle, then top
    assert (effect, level_of(tree, 9)) == (None, 2)
    tree, merge = tree.merge_done(merge)
    assert merge == Merge(8, 9, (2, 0))
    tree, effect = tree.merge_done(merge)
    assert effect == Total(9)


def test_events_that_cannot_be_are_refused():
    tree = Tree.over((0, 1), 2)
    after, _ = tree.leaf_done(0)
    for wrong in (0, 5):
        with pytest.raises(ConfigError, match="no leaf that is at work"):
            after.leaf_done(wrong)
    with pytest.raises(ConfigError, match="nobody asked"):
        after.merge_done(Merge(1, 0, (1, 0)))
    with pytest.raises(ConfigError, match="two leaves"):
        Tree.over((0, 0), 2)


# Adding in shared memory: the reference is fedcore.ring.

SIZE = 2 * BLOCK + 5
finite = st.floats(-1e6, 1e6, width=32)


class KilledError(Exception):
    """In place of a kill -9."""


class Cell:
    """A cell whose writer is killed before or after it is written for the n-th time."""

    def __init__(self, left=10**9, written=True):
        self.value, self.left, self.written = 0, left, written

    def __getitem__(self, at):
        return self.value

    def __setitem__(self, at, value):
        self.left -= 1
        if self.left >= 0 or self.written:
            self.value = value
        if self.left < 0:
            raise KilledError


def place(total, cell):
    return Place(cell, np.zeros(BLOCK, np.int64), total, np.empty(BLOCK))


def x_of(seed, kind):
    x = np.random.default_rng(seed).normal(size=SIZE) * 100
    return (x * ONE if kind == INT64 else x).astype(["<f4", "<f8", "<i8"][kind])


def ring_sum(x, weight, kind):
    t = torch.from_numpy(x.copy())
    return t if kind == INT64 else encode(t, weight)


def order_of(serial, kind, weight, first=False):
    return Order(serial, 0, kind, first, 1.0 if kind == INT64 else weight * float(ONE))


@pytest.mark.parametrize("kind", [FLOAT32, FLOAT64, INT64])
def test_shared_sums_are_those_of_the_ring(kind):
    total = np.full(SIZE, 77, np.int64)  # what an earlier round left
    here = place(total, np.zeros(1, np.uint64))
    wanted = torch.zeros(SIZE, dtype=torch.int64)
    for serial, weight in enumerate([3, 1000], start=1):
        x = x_of(serial, kind)
        here.add(x, order_of(serial, kind, weight, first=serial == 1))
        wanted += ring_sum(x, weight, kind)
    assert torch.equal(torch.from_numpy(total), wanted)


@given(st.lists(finite, min_size=1, max_size=5), st.integers(1, 2**20))
@QUICK
def test_shared_sums_are_those_of_the_ring_for_any_number(xs, weight):
    x = np.array(xs, np.float32)
    total = np.zeros(len(x), np.int64)
    if np.abs(x).max() * weight < LIMIT:
        here = place(total, np.zeros(1, np.uint64))
        here.add(x, order_of(1, FLOAT32, weight))
        wanted = encode(torch.from_numpy(x), weight)
        assert torch.equal(torch.from_numpy(total), wanted)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("stores", range(7))
@pytest.mark.parametrize("first", [False, True])
def test_a_fold_killed_anywhere_is_finished_exactly_once(stores, written, first):
    start = x_of(5, INT64)
    x, y = x_of(1, FLOAT32), x_of(2, FLOAT32)
    orders = order_of(1, FLOAT32, 3, first), order_of(2, FLOAT32, 2)
    total, cell = start.copy(), Cell(stores, written)
    dying = place(total, cell)
    try:
        dying.add(x, orders[0])
    except KilledError:
        phase = cell.value % (1 << 32)
        if phase % 2:  # killed while the block was put in place: it may be torn
            at = phase // 2 * BLOCK
            total[at : at + 3] = -1
        else:  # killed while the next block was made
            dying.scratch[:4] = -9
    cell.left = 10**9
    heir = Place(cell, dying.scratch, total, np.empty(BLOCK))
    for order, numbers_ in zip((*orders, orders[1]), (x, y, y), strict=True):
        heir.add(numbers_, order)  # the last one is told twice, and done once
    before = torch.zeros(SIZE, dtype=torch.int64) if first else torch.from_numpy(start)
    wanted = before + ring_sum(x, 3, FLOAT32) + ring_sum(y, 2, FLOAT32)
    assert torch.equal(torch.from_numpy(total), wanted)


# The coordinator: piles.

PACERS = {
    "synchronous": Synchronous(cohort=4, quorum=2),
    "buffered": Buffered(size=3),
    "small buffer": Buffered(size=1),
}


class Kept(NoJournal):
    def __init__(self):
        self.events = []

    def record(self, serial, event):
        self.events.append(event)


def run(pacer, aggregator, speeds, rounds=5):
    tasks = {f"peer{i}": Line(seed=i) for i in range(len(speeds))}
    link = VirtualLink(SGD(), tasks, {p: speeds[i] for i, p in enumerate(tasks)})
    rules = Rules(FedAvg(steps=1), pacer, aggregator=aggregator)
    journal, folds = Kept(), []
    start = {"weight": torch.zeros(1, 4)}
    Coordinator(rules, link, journal, folds.append).run(start, rounds)
    return rules, start, journal.events, folds


def told(fold):
    return (
        digest(fold.state.params),
        [(u.peer, u.version, u.examples, dict(u.metrics)) for u in fold.folded],
    )


@pytest.mark.parametrize("pacer", PACERS.values(), ids=PACERS)
@given(st.lists(st.sampled_from([1.0, 1.5, 2.0]), min_size=4, max_size=7))
@settings(deadline=None, max_examples=5)
def test_a_coordinator_that_sums_as_answers_come_folds_the_same(pacer, speeds):
    flat = run(pacer, None, speeds)[-1]
    eager = run(pacer, InTurn(3), speeds)[-1]
    assert [told(f) for f in eager] == [told(f) for f in flat]
    assert all(not u.payload for f in eager for u in f.folded)


@pytest.mark.parametrize("pacer", PACERS.values(), ids=PACERS)
def test_a_desk_with_piles_can_be_stored_and_gone_on_with_at_any_event(pacer):
    rules, start, events, _ = run(pacer, InTurn(2), [1.0, 1.0, 1.5, 2.0, 1.5])
    desk = again = rules.begin(start)
    most = 0
    for event in events:
        step = rules.step_out if isinstance(event, Idle) else rules.step_in
        before = pack("desk", desk)
        after, _ = step(desk, event)
        assert pack("desk", desk) == before  # pure: the old desk is as it was
        desk = after
        again = unpack("desk", hint_of(desk), pack("desk", again))
        again, _ = step(again, event)
        assert pack("desk", again) == pack("desk", desk)
        most = max(most, sum(len(p.names) for p in desk.piles))
        kept = [u for u in getattr(desk.pace, "kept", ()) if u.payload]
        assert not kept
    assert most > 0 or pacer == Buffered(size=1)
    assert any(isinstance(e, Heard) for e in events)


def test_a_desk_with_piles_is_not_gone_on_with_without_an_aggregator():
    """What its pacer keeps has no payloads: folding that would lose answers."""
    rules, start, events, _ = run(Synchronous(5), InTurn(2), [1.0, 1.0, 1.5, 2.0, 1.5])
    desk, told = rules.begin(start), iter(events)
    while not desk.piles:
        event = next(told)
        step = rules.step_out if isinstance(event, Idle) else rules.step_in
        desk, _ = step(desk, event)
    with pytest.raises(ConfigError, match="go on with an aggregator"):
        replace(rules, aggregator=None).step_in(desk, next(told))


def test_piles_that_would_leave_the_ring_are_kept_apart_and_mean_the_same():
    big = {"w": torch.tensor([2.0**20, -(2.0**20)])}
    us = [Update(f"p{i}", 0, big, 900) for i in range(7)]  # 7 * 900 * 2^20 > 2^31
    (pile,) = piled((), us[:4], 0, InTurn())
    (pile,) = piled((pile,), us[4:], 0, InTurn())
    assert len(pile.sums) > 1
    parts = [Update("sum", 0, {"w": s.sums["w"].total}, s.examples) for s in pile.sums]
    assert all(s.sums["w"].wraps is None for s in pile.sums)
    state = FedAvg().init({"w": torch.zeros(2)})
    flat = FedAvg().apply(state, us).params
    assert digest(FedAvg().apply(state, parts).params) == digest(flat)


def test_merged_updates_of_others_may_be_piled_too():
    us = [Update(f"p{i}", 0, {"w": torch.tensor([0.1 * i])}, i + 1) for i in range(5)]
    mixed = [merged(us[:3], "edge"), *us[3:]]
    (pile,) = piled((), mixed, 0, InTurn(2))
    assert bits(pile.sums[0]) == bits(summed(us))
    assert replace(pile, sums=()).names == (("edge", 0), ("p3", 0), ("p4", 0))


@dataclass(frozen=True)
class EagerTrial(Trial):
    """A run whose answers are summed as they come, to be killed."""

    @property
    def rules(self):
        return Rules(FedAvg(steps=2), self.pacer, aggregator=InTurn(2))


@pytest.mark.slow
@pytest.mark.parametrize("payloads", [True, False], ids=["events", "checkpoints"])
@pytest.mark.parametrize("pacer", CRASH_PACERS.values(), ids=CRASH_PACERS)
def test_a_killed_coordinator_that_sums_as_answers_come_recovers(
    pacer, payloads, tmp_path
):
    """Some crash points of ``test_crash_points``; desks with piles among them."""
    trial = EagerTrial(pacer, payloads)
    final, desks = trial.reference()
    assert final == Trial(pacer, payloads).reference()[0]
    trace = trial.traced(tmp_path / "traced")
    memory, tried = Memory(), 0
    for at, call in enumerate(trace):
        images = list(memory.crashes(call, seed=at)) if at % 13 == 0 else []
        for image in images[at % 2 :: 3]:
            write_image(image, tmp_path / "crashed")
            journal = Watched(
                trial.journal(RealDisk(tmp_path / "crashed")), trial.rules
            )
            assert trial.run(journal) == final, (at, call)
            assert journal.recovered.serial >= memory.promised
            assert pack("desk", journal.recovered) == desks[journal.recovered.serial]
            tried += 1
        memory.do(call)
    assert tried > 10
