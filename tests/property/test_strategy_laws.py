"""Laws that hold for every strategy in the registry and every input."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.hints import hint_of
from fedcore.pacing import by_peer
from fedcore.params import digest, norm, sub
from fedcore.partial import merged
from fedcore.strategy import Update
from fedcore.tree import flatten, restore
from strategies import STRATEGIES
from strategies.coordinatewise import CoordinateMedian, TrimmedMean
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from tests.cases import answer, rules_of

START = {
    "w": torch.ones(3),
    "fc.weight": torch.ones(2, 3),
    "norm.running_var": torch.ones(1),
}
SUMS = [name for name, make in STRATEGIES.items() if make.needs == "sum"]
ORDERLESS = [*SUMS, "median", "trimmed-mean"]  # before any sorting, too
QUICK = settings(deadline=None, max_examples=15)
SOME = settings(deadline=None, max_examples=6)  # times as many as there are strategies
FEW = settings(deadline=None, max_examples=4)  # laws of form: values matter little


def drafted(peers, seed):
    """Return numbers, weights and steps of ``peers``; floats drawn singly take long."""
    r = Random(seed)
    special = [0.0, -0.0, 1.0, 10.0, -10.0, 2.0**-149]
    return [
        (
            [
                r.choice(special) if r.random() < 0.2 else r.uniform(-10, 10)
                for _ in range(r.randint(5, 9))
            ],
            r.choice([1, 1000, r.randint(1, 1000)]),
            r.randint(1, 9),
        )
        for _ in range(peers)
    ]


drafts = st.builds(drafted, st.integers(5, 8), st.integers(0, 2**32 - 1))


def round_of(rules, state, drafts):
    """Return answers of peers p0, p1, ... to what ``rules`` ask of them."""
    return [answer(rules, state, f"p{i}", *draft) for i, draft in enumerate(drafts)]


def bits(value):
    """Return everything in ``value`` that could differ, bit for bit."""
    structure, tensors = flatten(value)
    return structure, digest(tensors)


def two_rounds(rules, drafts):
    """Return the state after two rounds: by then every memory is in use."""
    state = rules.init(START)
    for _ in range(2):
        state = rules.apply(state, round_of(rules, state, drafts))
    return state


@pytest.mark.parametrize("name", SUMS)
@given(drafts=drafts)
@SOME
def test_a_sum_may_replace_the_updates_exactly(name, drafts):
    """What secure aggregation, trees of aggregators and all-reduce all rely on."""
    rules = rules_of(name)
    state = rules.init(START)
    us = round_of(rules, state, drafts)
    assert bits(rules.apply(state, us)) == bits(rules.apply(state, [merged(us)]))
    halves = [merged(us[:2], "left"), merged(us[2:], "right")]
    assert bits(rules.apply(state, us)) == bits(rules.apply(state, halves))


@pytest.mark.parametrize("name", STRATEGIES)
@given(drafts=drafts, order=st.randoms(use_true_random=False))
@SOME
def test_the_order_of_arrival_does_not_matter(name, drafts, order):
    rules = rules_of(name)
    state = rules.init(START)
    us = round_of(rules, state, drafts)
    mixed = order.sample(us, len(us))
    folded = mixed if name in ORDERLESS else by_peer(mixed)
    assert bits(rules.apply(state, us)) == bits(rules.apply(state, folded))


@pytest.mark.parametrize("name", STRATEGIES)
@given(drafts=drafts)
@FEW
def test_apply_writes_into_nothing_and_counts_one(name, drafts):
    rules = rules_of(name)
    state = rules.init(START)
    state = rules.apply(state, round_of(rules, state, drafts))
    later = round_of(rules, state, drafts)
    before = bits((state, tuple(later)))
    after = rules.apply(state, later)
    assert bits((state, tuple(later))) == before
    assert after.version == state.version + 1


@pytest.mark.parametrize("name", STRATEGIES)
@given(drafts=drafts)
@FEW
def test_the_model_keeps_its_names_shapes_and_types(name, drafts):
    params = two_rounds(rules_of(name), drafts).params
    assert {k: (t.shape, t.dtype) for k, t in params.items()} == {
        k: (t.shape, t.dtype) for k, t in START.items()
    }


@pytest.mark.parametrize("name", STRATEGIES)
@given(drafts=drafts)
@FEW
def test_the_state_survives_being_stored(name, drafts):
    rules = rules_of(name)
    state = two_rounds(rules, drafts)
    restored = restore(hint_of(state), *flatten(state))
    assert bits(restored) == bits(state)
    again = round_of(rules, state, drafts)
    assert bits(rules.apply(restored, again)) == bits(rules.apply(state, again))


@pytest.mark.parametrize("name", STRATEGIES)
def test_work_echoes_the_version_and_expects_floats_or_bytes(name):
    rules = rules_of(name, steps=3)
    work = rules.work(rules.init(START), "p0")
    assert (work.version, work.steps) == (0, 3)
    expected = rules.expects(work)
    assert expected
    assert {t.dtype for t in expected.values()} <= {torch.float32, torch.uint8}


# Under attack: f of the updates hold anything a 32-bit float can.

anything = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vectors(elements):
    rows = st.lists(elements, min_size=3, max_size=3)
    return rows.map(lambda xs: {"w": torch.tensor(xs)})


wild, tame = vectors(anything), vectors(st.floats(-10, 10, width=32))


@st.composite
def attacked(draw, per_attacker, spare):
    """Return honest trees and all updates: n = per_attacker * f + spare, mixed."""
    f = draw(st.integers(1, 3))
    count = per_attacker * f + spare
    honest = draw(st.lists(tame, min_size=count - f, max_size=count - f))
    liars = draw(st.lists(wild, min_size=f, max_size=f))
    mixed = draw(st.permutations([*honest, *liars]))
    return f, honest, [Update(f"p{i}", 0, t, 1) for i, t in enumerate(mixed)]


def step(rules, us):
    return rules.apply(rules.init({"w": torch.zeros(3)}), us).params


@given(attacked(per_attacker=2, spare=1))
@QUICK
def test_attackers_cannot_leave_the_honest_range(case):
    f, honest, us = case
    rows = torch.stack([tree["w"] for tree in honest])
    for rules in (CoordinateMedian(), TrimmedMean(attackers=f)):
        got = step(rules, us)["w"]
        assert (rows.min(dim=0).values <= got).all()
        assert (got <= rows.max(dim=0).values).all()


def spread(trees):
    """Return the greatest distance between two of ``trees``."""
    return max(norm(sub(a, b)) for a in trees for b in trees)


@given(attacked(per_attacker=2, spare=3))
@QUICK
def test_krum_stays_near_an_honest_update(case):
    """An attacker's score counts an honest neighbour, and must beat honest scores."""
    f, honest, us = case
    near = len(us) - f - 2
    got = step(Krum(attackers=f), us)
    away = min(norm(sub(got, tree)) for tree in honest)
    assert away <= (near**0.5) * spread(honest) * (1 + 1e-6) + 1e-6


@given(attacked(per_attacker=2, spare=3))
@QUICK
def test_multi_krum_stays_near_the_honest_updates(case):
    """Enough honest scores are low that each update kept has a low score too."""
    f, honest, us = case
    near = len(us) - f - 2
    reach = (near**0.5 + 1) * spread(honest)
    got = step(MultiKrum(attackers=f), us)
    assert max(norm(sub(got, tree)) for tree in honest) <= reach * (1 + 1e-6) + 1e-6


@given(attacked(per_attacker=2, spare=1))
@QUICK
def test_the_geometric_median_moves_a_bounded_way(case):
    """Minsker 2015, lemma 2.1: C = 2 (n - f) / (n - 2 f) times the honest radius."""
    f, honest, us = case
    n = len(us)
    middle = {"w": torch.stack([tree["w"] for tree in honest]).mean(dim=0)}
    radius = max(norm(sub(tree, middle)) for tree in honest)
    got = step(GeometricMedian(), us)
    limit = 2 * (n - f) / (n - 2 * f) * radius
    assert norm(sub(got, middle)) <= 1.01 * limit + 1e-3
