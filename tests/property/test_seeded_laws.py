"""Laws of models that are integers, for every input."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.onebyte import decode
from fedcore.params import digest
from fedcore.partial import merged
from fedcore.pool import Pool
from fedcore.pool.reference import expand
from fedcore.ring import ONE
from fedcore.strategy import Update
from strategies.one_byte import OneByte
from strategies.seeded import (
    begun,
    divided,
    drawn,
    folded,
    indices,
    limit,
    mean_of_integers,
)

BASE = {
    "b": torch.linspace(-1, 1, 11),
    "a": torch.linspace(0.5, 2, 6).view(2, 3).bfloat16(),
    "norm.running_var": torch.ones(2),
}
POOLS = [
    Pool(4, tie="tile", seed=3),
    Pool(4, tie="shift", seed=3),
    Pool(4, "signs", seed=3),
    Pool(4, "gaussian", seed=3),
]
FEW = settings(deadline=None, max_examples=20)

scalars = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)
weights = st.integers(1, 10_000_000)
rounds = st.lists(
    st.lists(st.tuples(scalars, weights), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def updates_of(drafts, version):
    return [
        Update(f"p{i}", version, {"coefficients": torch.tensor(numbers)}, weight)
        for i, (numbers, weight) in enumerate(drafts)
    ]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.kind}-{pool.tie}")
@given(rounds=rounds, rotate=st.integers(0, 2))
@settings(deadline=None, max_examples=4)
def test_a_model_is_what_its_integers_expand_to(pool, rounds, rotate):
    """However it came about; statistics are not touched."""
    state = begun(BASE, pool, -0.01)
    for version, drafts in enumerate(rounds):
        state = folded(state, updates_of(drafts, version), rotate)
    weights = {name: BASE[name] for name in ("a", "b")}
    wanted = expand(pool, state.coefficients, -0.01, weights)
    still = {"norm.running_var": BASE["norm.running_var"]}
    assert digest(state.params) == digest({**wanted, **still})
    epochs = 1 + len(rounds) // rotate if rotate else 1
    assert len(state.coefficients) == epochs


@given(drafts=st.lists(st.tuples(scalars, weights), min_size=1, max_size=6))
@FEW
def test_the_mean_is_the_exact_one_rounded_once(drafts):
    us = updates_of(drafts, 0)
    total = sum(u.examples for u in us)
    parts = [[round(Fraction(x) * u.examples * ONE) for x in d[0]]
             for u, d in zip(us, drafts, strict=True)]  # fmt: skip
    exact = [round(Fraction(sum(column), total)) for column in zip(*parts, strict=True)]
    assert mean_of_integers(us, "coefficients").tolist() == exact
    assert mean_of_integers(us[::-1], "coefficients").tolist() == exact
    top = max(abs(sum(column)) for column in zip(*parts, strict=True))
    if top < 1 << 63:
        assert mean_of_integers([merged(us)], "coefficients").tolist() == exact


@given(
    total=st.lists(st.integers(-(1 << 62), 1 << 62), min_size=1, max_size=9),
    by=st.integers(1, 1 << 50),
)
@FEW
def test_division_is_exact_for_large_numbers_too(total, by):
    wanted = [round(Fraction(n, by)) for n in total]
    assert divided(torch.tensor(total), by).tolist() == wanted


@given(start=st.integers(-(1 << 60), 1 << 60), drafts=st.tuples(scalars, weights))
@FEW
def test_no_coefficient_leaves_its_limit_and_none_is_cut_in_silence(start, drafts):
    state = begun(BASE, Pool(4), 1.0)
    most = limit(4)
    state.coefficients[0, 0] = max(-most, min(most, start))
    (update,) = updates_of([drafts], 0)
    free = state.coefficients[0] + mean_of_integers([update], "coefficients")
    after = folded(state, [update], 0)
    assert int(after.coefficients.abs().max()) <= most
    assert after.cut == int((free.abs() > most).sum())


@given(
    told=st.lists(
        st.tuples(st.binary(min_size=6, max_size=6), st.integers(1, 1000)),
        min_size=1,
        max_size=4,
    ),
    turn=st.integers(0, 3),
)
@FEW
def test_bytes_say_the_same_to_whoever_reads_them_slowly(told, turn):
    rules = OneByte(size=8, steps=3, directions=2, clip=2000.0)
    state = rules.init({"w": torch.zeros(5)})
    us = [
        Update(f"p{i}", 0, {"bytes": torch.tensor(list(raw), dtype=torch.uint8)}, w,
               {"turn": float(turn)})
        for i, (raw, w) in enumerate(told)
    ]  # fmt: skip
    total, line = sum(u.examples for u in us), [0] * 8
    for u in us:
        random = drawn(state.pool, u.peer, 0, turn, 6)
        amounts = decode(u.payload["bytes"], 1.0).tolist()
        for k, amount in zip(indices(random, 8).tolist(), amounts, strict=True):
            line[k] += u.examples * round(Fraction(amount, 2))
    wanted = [round(Fraction(n, total)) for n in line]
    assert rules.apply(state, us).coefficients[0].tolist() == wanted
