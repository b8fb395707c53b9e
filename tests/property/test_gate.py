import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.gate import Gate
from fedcore.strategy import Update, Work

WORK = Work(3, {"a": torch.zeros(3), "b": torch.zeros(())})

ANYTHING: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda n: n**40),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.sampled_from([torch.zeros(3), torch.zeros(()), torch.zeros(3).int()]),
)
KEYS = st.sampled_from("ab") | st.text(max_size=3) | st.integers() | st.none()
TREES = st.dictionaries(KEYS, ANYTHING, max_size=3)


@settings(deadline=None, max_examples=150)
@given(ANYTHING, ANYTHING, ANYTHING | TREES, ANYTHING, ANYTHING | TREES)
def test_whatever_comes_is_judged_and_never_raises(peer, version, tree, size, metrics):
    update = Update(peer, version, tree, size, metrics)
    for work in (WORK, None):
        refusal = Gate().refusal(
            update, work, expects=lambda w: w.params, stale_after=0
        )
        if refusal is not None:
            assert refusal.kind
            assert refusal.reason.isprintable()
            assert len(refusal.reason) < 200


FLOATS = st.lists(st.floats(width=32), min_size=3, max_size=3)


@settings(deadline=None, max_examples=150)
@given(FLOATS, st.integers(1, 10**7))
def test_what_passes_is_within_every_limit(values, examples):
    t = torch.tensor(values)
    update = Update("peer", 3, {"a": t, "b": torch.zeros(())}, examples)
    gate = Gate(max_value=50.0, max_norm=60.0)
    refusal = gate.refusal(update, WORK, expects=lambda w: w.params, stale_after=0)
    norm = math.hypot(*values)
    inside = max(map(abs, values)) <= 50.0 and norm <= 60.0  # NaN is not inside
    tiny = 0 < max(map(abs, values)) < torch.finfo(torch.float32).tiny
    if abs(norm - 60.0) > 1e-3:  # nearer, the last of 2^20 steps may round either way
        assert (refusal is None) == (inside and not tiny)
