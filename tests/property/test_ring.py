import random
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.params import digest
from fedcore.partial import Partial, mean_of, merged, summed
from fedcore.ring import LIMIT, ONE, decode, encode
from fedcore.strategy import Update
from strategies.fedavg import FedAvg

NEAR = st.floats(-100, 100, width=32)
FAR = st.floats(-(LIMIT - 64), LIMIT - 64, width=32)  # sums of three may wrap
WEIGHTS = st.integers(1, 10_000)


def updates_of(numbers, weights):
    return st.lists(
        st.builds(
            lambda values, examples: Update(
                f"p{examples}", 0, {"w": torch.tensor(values)}, examples
            ),
            st.lists(numbers, min_size=2, max_size=2),
            weights,
        ),
        min_size=1,
        max_size=8,
    )


MANY = updates_of(NEAR, WEIGHTS) | updates_of(FAR, st.just(1))


@settings(deadline=None, max_examples=60)
@given(st.floats(-1000, 1000, width=32), st.integers(1, 100_000))
def test_what_is_encoded_comes_back_within_half_a_unit(x, weight):
    got = Fraction(encode(torch.tensor(x), weight).item(), ONE)
    assert abs(got - Fraction(x) * weight) <= Fraction(1, 2**33)
    back = decode(encode(torch.tensor(x), weight), weight).item()
    assert abs(back - x) <= 2.0**-33 / weight + abs(x) * 2.0**-52


def as_tree(updates, rng):
    """Return the sum of ``updates``, merged pair by pair in a random tree."""
    parts = [summed([u]) for u in updates]
    while len(parts) > 1:
        left = parts.pop(rng.randrange(len(parts)))
        parts[rng.randrange(len(parts))].merge(left)
    return parts[0]


@settings(deadline=None, max_examples=60)
@given(MANY, st.randoms(use_true_random=False))
def test_every_order_and_every_tree_has_the_same_bits(updates, rng):
    want = digest(mean_of(updates))
    shuffled = rng.sample(updates, len(updates))
    assert digest(mean_of(shuffled)) == want
    assert digest(as_tree(shuffled, rng).mean()) == want


@settings(deadline=None, max_examples=60)
@given(MANY)
def test_the_mean_is_the_mean_of_exact_fractions(updates):
    total = sum(u.examples for u in updates)
    got = mean_of(updates)["w"].tolist()
    for i, mean in enumerate(got):
        exact = sum(Fraction(u.payload["w"][i].item()) * u.examples for u in updates)
        bound = Fraction(len(updates), 2**33 * total) + abs(exact / total) / 2**23
        assert abs(Fraction(mean) - exact / total) <= bound


@settings(deadline=None, max_examples=50)
@given(updates_of(NEAR, WEIGHTS), st.integers(0, 8))
def test_a_sum_strategy_sees_only_the_sum(updates, cut):
    strategy = FedAvg(server_lr=0.7)
    state = strategy.init({"w": torch.tensor([1.0, -2.0])})
    want = digest(strategy.apply(state, updates).params)
    whole = strategy.apply(state, [merged(updates)])
    assert digest(whole.params) == want
    parts = [merged(p) for p in (updates[:cut], updates[cut:]) if p]
    assert digest(strategy.apply(state, parts).params) == want


def test_a_long_stream_of_random_sums_matches_python_integers():
    rng = random.Random(7)
    partial, exact = Partial(), [0, 0]
    for _ in range(300):
        values = [rng.randint(-(2**63), 2**63 - 1) for _ in range(2)]
        partial.add(Update("p", 0, {"w": torch.tensor(values)}, 1))
        exact = [a + b for a, b in zip(exact, values, strict=True)]
        sums = partial.sums["w"]
        turns = [0, 0] if sums.wraps is None else sums.wraps.tolist()
        got = [
            t + turn * 2**64 for t, turn in zip(sums.total.tolist(), turns, strict=True)
        ]
        assert got == exact
