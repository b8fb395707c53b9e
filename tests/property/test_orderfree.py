"""The laws of the order-free model, whatever is said, and however it is heard."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from fedcore.errors import FactError, ProtocolError
from fedcore.orderfree import (
    Waiting,
    ahead_of,
    apply,
    begin,
    decode_fact,
    decode_total,
    encode_fact,
    encode_total,
    fact_of,
    hash_of,
    learn,
    merge,
    read_snapshot,
    rebase,
    settle,
    snapshot,
    withdraw,
)
from fedcore.orderfree.messages import LAYOUT
from fedcore.orderfree.packing import (
    packed,
    packed_places,
    read_packed,
    read_places,
)
from fedcore.orderfree.reference import total_of
from fedcore.params import digest
from fedcore.wire import Reader
from tests.orderfree_cases import BASE, ORIGIN, PEERS, POOL, grown, told

NUMBERS = st.integers(-9, 9) | st.sampled_from([2**33, ORIGIN.reach, -ORIGIN.reach])
LINES = st.dictionaries(st.integers(0, POOL.size - 1), NUMBERS, max_size=4).map(
    lambda places: torch.tensor([places.get(k, 0) for k in range(POOL.size)])
)
STORIES = st.fixed_dictionaries({p: st.lists(LINES, max_size=4) for p in PEERS})
OUT = st.sets(st.sampled_from(PEERS), max_size=2)


def facts_of(stories):
    """Return all facts of all peers; none has heard of another's."""
    return [f for peer in PEERS for f in told(begin(ORIGIN), peer, *stories[peer])[0]]


def heard(facts, out=()):
    """Return the model of one who hears ``facts`` in this order."""
    model, waiting = begin(ORIGIN), Waiting()
    for fact in facts:
        state = learn(model, waiting, fact)
        assert not state.refused
        model, waiting = state.model, state.waiting
    for peer in out:
        model = withdraw(model, peer)
    return model


@settings(deadline=None, max_examples=12)
@given(STORIES, st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(stories, chance):
    facts = facts_of(stories)
    again = facts + chance.choices(facts, k=len(facts)) if facts else []
    chance.shuffle(again)
    a, b = heard(facts), heard(again)
    assert snapshot(a) == snapshot(b)
    assert a.total().tolist() == total_of(ORIGIN, again)
    assert digest(a.weights(BASE)) == digest(b.weights(BASE))


@settings(deadline=None, max_examples=12)
@given(STORIES, OUT, st.randoms(use_true_random=False))
def test_merge_commutes_associates_and_is_idempotent(stories, out, chance):
    facts = facts_of(stories)
    parts = [[f for f in facts if chance.random() < 0.6] for _ in range(3)]
    a, b, c = (heard(part) for part in parts)
    b = heard(parts[1], out)
    assert snapshot(merge(a, ahead_of(b, a.vector()))) == snapshot(merge(a, b))
    whole = snapshot(merge(merge(a, b), c))
    assert snapshot(merge(a, merge(b, c))) == whole
    assert snapshot(merge(c, merge(b, a))) == whole
    assert snapshot(merge(merge(merge(c, a), b), merge(b, a))) == whole
    assert snapshot(merge(a, a)) == snapshot(a)


@settings(deadline=None, max_examples=12)
@given(STORIES, OUT)
def test_withdrawn_is_never_been(stories, out):
    left = {p: lines for p, lines in stories.items() if p not in out}
    everyone = heard(facts_of(stories), out)
    alone = grown(**left)
    assert everyone.registers.keys() == alone.registers.keys()
    assert torch.equal(everyone.total(), alone.total())
    assert digest(everyone.weights(BASE)) == digest(alone.weights(BASE))


@settings(deadline=None, max_examples=8)
@given(STORIES, STORIES, st.booleans())
def test_a_snapshot_is_as_good_as_the_history(before, after, close):
    model = grown(**before)
    if close:
        model = rebase(model, model.vector())
    joined = read_snapshot(snapshot(model))
    for peer in PEERS:
        facts, model = told(model, peer, *after[peer])
        for fact in facts:
            joined = apply(joined, decode_fact(encode_fact(fact)))
    assert hash_of(joined) == hash_of(model)
    assert digest(joined.weights(BASE)) == digest(model.weights(BASE))


@settings(deadline=None, max_examples=8)
@given(STORIES, STORIES)
def test_closing_an_epoch_keeps_the_bits(first, second):
    model = grown(**first)
    closed = rebase(model, model.vector())
    assert digest(closed.weights(BASE)) == digest(model.weights(BASE))
    for peer in PEERS:
        _, closed = told(closed, peer, *second[peer])
    rows = closed.coefficients()
    assert rows[0].tolist() == total_of(ORIGIN, facts_of(first))
    assert rows[1].tolist() == total_of(ORIGIN, facts_of(second))


class Gossip(RuleBasedStateMachine):
    """Replicas that hear facts, merge, expel and move on, against the sorted log.

    ``said`` is the log of the open epoch; ``known`` what each replica has been told
    of it by facts or merges, waiting or not.
    """

    facts = Bundle("facts")
    replicas = st.integers(0, 2)

    def __init__(self):
        super().__init__()
        self.models = [begin(ORIGIN)] * 3
        self.waiting = [Waiting()] * 3
        self.known = [{}, {}, {}]
        self.authors = {peer: begin(ORIGIN) for peer in PEERS}
        self.out = [set(), set(), set()]

    @rule(target=facts, peer=st.sampled_from(PEERS), amounts=LINES)
    def say(self, peer, amounts):
        fact = fact_of(self.authors[peer], peer, amounts)
        self.authors[peer] = apply(self.authors[peer], fact)
        return fact

    @rule(who=replicas, fact=facts)
    def hear(self, who, fact):
        model = self.models[who]
        if fact.epoch != model.epoch or fact.peer in self.out[who]:
            before = snapshot(model)
            with pytest.raises(FactError, match=fact.peer):
                learn(model, self.waiting[who], fact)
            assert snapshot(model) == before
            return
        self.known[who][fact.peer, fact.seq] = fact
        self.keep(who, learn(model, self.waiting[who], decode_fact(encode_fact(fact))))

    @rule(who=replicas, other=replicas)
    def merge_with(self, who, other):
        if self.models[who].epoch != self.models[other].epoch:
            return
        sent = read_snapshot(snapshot(self.models[other]))
        counted = {
            key: fact
            for key, fact in self.known[other].items()
            if key[1] <= sent.vector().get(key[0], 0)
        }
        self.known[who] |= counted
        self.out[who] |= self.out[other]
        self.keep(who, settle(merge(self.models[who], sent), self.waiting[who]))

    @rule(who=replicas, peer=st.sampled_from(PEERS))
    @precondition(lambda self: sum(map(len, self.out)) < 2)
    def expel(self, who, peer):
        self.out[who].add(peer)
        self.keep(who, settle(withdraw(self.models[who], peer), self.waiting[who]))

    @rule()
    def move_on(self):
        """All meet, agree on the cut and close the epoch; authors follow."""
        together = merge(self.models[0], merge(self.models[1], self.models[2]))
        after = rebase(together, together.vector())
        late = [settle(after, waiting) for waiting in self.waiting]
        assert not any(len(state.waiting) for state in late)
        assert {e.kind for state in late for e in state.refused} <= {"epoch-old"}
        self.models, self.waiting = [after] * 3, [state.waiting for state in late]
        self.known, everyone_out = [{}, {}, {}], set().union(*self.out)
        self.out = [set(everyone_out) for _ in range(3)]
        quiet = rebase(merge(begin(ORIGIN), together), together.vector())
        assert hash_of(quiet) == hash_of(after)
        clean = {peer for peer in PEERS if peer not in everyone_out}
        self.authors = {
            peer: after if peer in clean else begin(ORIGIN) for peer in PEERS
        }

    def keep(self, who, state):
        self.models[who], self.waiting[who] = state.model, state.waiting
        assert all(error.kind == "withdrawn" for error in state.refused)

    @invariant()
    def replicas_hold_what_they_heard(self):
        for model, known, out in zip(self.models, self.known, self.out, strict=True):
            assert model.total().tolist() == total_of(ORIGIN, known.values(), out)
            assert model.withdrawn == out

    @invariant()
    def the_same_facts_give_the_same_hash(self):
        pairs = [(m, (m.vector(), m.withdrawn, m.epoch)) for m in self.models]
        for a, facts in pairs:
            for b, others in pairs:
                assert (hash_of(a) == hash_of(b)) == (facts == others)


TestGossip = pytest.mark.slow(Gossip.TestCase)
TestGossip.settings = settings(deadline=None, max_examples=30, stateful_step_count=25)


ROWS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300), max_size=9)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_rows_come_back_from_as_few_bytes_as_they_need(numbers):
    row = torch.tensor(numbers, dtype=torch.int64)
    data = packed(row)
    width = next(w for w in range(1, 9) if fits(numbers, 8 * w - 1))
    assert len(data) == 1 + width * len(numbers)
    assert torch.equal(read_packed(Reader(data), len(numbers)), row)


def fits(numbers, bits):
    return all(-(1 << bits) <= x < 1 << bits for x in numbers)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([2, 8, 64, 65536]), st.data())
def test_places_come_back(size, data):
    places = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=20)))
    raw = packed_places(torch.tensor(places, dtype=torch.int64), size)
    assert len(raw) == min(2 * len(places), -(-size // 8))
    assert read_places(Reader(raw), len(places), size).tolist() == places


@settings(deadline=None, max_examples=12)
@given(STORIES, OUT)
def test_messages_come_back(stories, out):
    model = heard(facts_of(stories), out)
    assert snapshot(read_snapshot(snapshot(model))) == snapshot(model)
    total = decode_total(encode_total(model))
    assert torch.equal(total.coefficients, model.coefficients())
    assert total.state == hash_of(model)
    for fact in facts_of(stories):
        assert encode_fact(decode_fact(encode_fact(fact))) == encode_fact(fact)


def samples():
    """Return one message of every kind, and how it is read."""
    model = withdraw(grown(anna=[torch.arange(8)], ben=[-torch.arange(8)]), "cleo")
    model = rebase(model, model.vector())
    facts, model = told(model, "ben", torch.arange(8) * 2**33)
    yield encode_fact(facts[0]), decode_fact, encode_fact
    yield snapshot(model), read_snapshot, snapshot
    yield encode_total(model), decode_total, None


def judged(data, read, write):
    """Read ``data``; it must be refused properly, or be just what is written."""
    try:
        value = read(bytes(data))
    except ProtocolError:
        return
    if write:
        assert write(value) == data


def test_damaged_messages_are_refused_or_mean_what_they_say():
    chance = random.Random(5)
    for data, read, write in samples():
        for at in range(len(data)):
            judged(data[:at], read, write)
            odd = bytearray(data)
            odd[at] ^= 1 << chance.randrange(8)
            judged(odd, read, write)
        judged(data + b"\0", read, write)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(samples())), st.integers(0, 400), st.binary(max_size=30))
def test_hostile_messages_are_refused_or_mean_what_they_say(sample, at, tail):
    data, read, write = sample
    judged(data[:at] + tail, read, write)
    judged(data[:at] + tail + data[at + len(tail) :], read, write)
    judged(b"FO" + data[2:3] + bytes([LAYOUT]) + tail, read, write)
