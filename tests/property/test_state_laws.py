"""Laws of merging: order, grouping and repetition are nothing, also among liars."""

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.state.chain import Kind
from p2p.state.fold import Fold, said_in
from p2p.state.logs import Logs
from p2p.state.reference import fold as reference
from tests.state_cases import (
    copied,
    count,
    counts,
    logs,
    merge,
    pen_of,
    plain,
    said,
)

PENS = [pen_of(number) for number in range(1, 4)]
LIAR = PENS[0]


def histories(seed: int, branches: int = 3) -> list[Logs]:
    """Return logs of which each knows a part, and one story of the liar."""
    draw, trunk = random.Random(seed), logs()
    for pen in PENS:
        said(trunk, pen, *counts(range(draw.randint(0, 3))))
    found = [copied(trunk) for _ in range(branches)]
    stories = [draw.randint(0, 2) for _ in found]
    for at, held in enumerate(found):
        for step in range(draw.randint(0, 4)):
            said(held, LIAR, count(stories[at] if step else draw.randint(0, 2)))
    for pen in PENS[1:]:
        teller = draw.choice(found)
        said(teller, pen, *counts([draw.randint(0, 9)]))
    return found


def joined(*parts: Logs) -> Logs:
    """Return all of ``parts`` as one, each left as it was."""
    held = copied(parts[0])
    for part in parts[1:]:
        merge(held, copied(part))
    return held


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 30))
def test_merging_commutes_associates_and_repeats_without_effect(seed):
    a, b, c = histories(seed)
    want = joined(a, b, c).root()
    for order in permutations((a, b, c)):
        assert joined(*order).root() == want
    assert joined(a, joined(b, c)).root() == want
    assert joined(joined(a, b), joined(b, c), a).root() == want
    whole = joined(a, b, c)
    assert joined(whole, whole).root() == want


def test_three_branches_freeze_at_the_first_fork_in_every_order():
    trunk = logs()
    said(trunk, LIAR, *counts([1, 2, 3, 4]))
    early = copied(trunk)
    a, b = copied(trunk), copied(trunk)
    said(a, LIAR, *counts([10, 11]))
    said(b, LIAR, *counts([20]))
    early = logs()
    said(early, LIAR, *counts([1, 2, 30, 31, 32, 33, 34]))
    roots = set()
    for order in permutations((a, b, early)):
        found = joined(*order)
        assert found.by_writer[LIAR.writer].fork.position == 4
        assert found.tip(LIAR.writer).length == 3
        roots.add(found.root())
    assert len(roots) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_fold_is_the_reference_whatever_the_order(seed):
    found = joined(*histories(seed))
    want = reference(said_in(found))
    assert plain(Fold(found).view()) == want
    shuffled = Fold(found)
    shuffled._fresh = False
    rows = list(said_in(found))
    random.Random(seed).shuffle(rows)
    for one in rows:
        shuffled.take(one.opening, one.place.position - 1, [(one.entry, b"")])
    assert plain(shuffled.view()) == want
    assert any(one.entry.kind == Kind.COUNT for one in rows) or not want.totals
