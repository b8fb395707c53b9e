"""Schedules forgive what they are made for, and wait for no more than they need."""

from itertools import accumulate
from operator import or_

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError
from strategies.coding.machine import (
    begin,
    enough,
    everybody,
    finished,
    following,
    heard,
    load_of,
    mask_of,
    round_times,
    waits,
)
from strategies.coding.schedules import Multiplexed, Once, Repeated

FEW = settings(deadline=None, max_examples=25)
kinds = st.sampled_from(["grouped", "cyclic"])


@st.composite
def schedules(draw):
    n, kind = draw(st.integers(2, 6)), draw(kinds)
    make = draw(st.sampled_from([Once, Repeated, Multiplexed]))
    if make is Once:
        return Once(n, draw(st.integers(0, n - 1)), kind)
    burst, window = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    try:
        return make(n, burst, window, draw(st.integers(0, n)), kind)
    except ConfigError:
        assume(False)


@st.composite
def conforming(draw):
    """A schedule and stragglers round by round, within its (B, W, λ) pattern."""
    schedule = draw(schedules())
    pattern = []
    for _ in range(12):
        row = set()
        for worker in draw(st.permutations(range(schedule.workers))):
            if draw(st.booleans()) and allowed(schedule, [*pattern, row | {worker}]):
                row = row | {worker}
        pattern.append(row)
    return schedule, pattern


def allowed(schedule, pattern):
    if isinstance(schedule, Once):
        return len(pattern[-1]) <= schedule.stragglers
    window = pattern[-schedule.window :]
    if len(set().union(*window)) > schedule.stragglers:
        return False
    rounds = [[t for t, row in enumerate(window) if w in row] for w in window[-1]]
    return all(ts[-1] - ts[0] < schedule.burst for ts in rounds)


@FEW
@given(conforming())
def test_no_round_of_a_conforming_pattern_waits_and_every_job_is_done_in_time(case):
    schedule, pattern = case
    progress = begin(schedule)
    for away in pattern:
        present = everybody(schedule) & ~mask_of(sorted(away))
        assert enough(schedule, progress, present)
        progress = heard(schedule, progress, present)
        assert finished(schedule, progress.done[-1])
        progress = following(schedule, progress)


@FEW
@given(schedules(), st.data())
def test_any_other_pattern_waits_for_no_more_than_it_needs(schedule, data):
    progress = begin(schedule)
    for _ in range(8):
        order = data.draw(st.permutations(range(schedule.workers)))
        first = list(accumulate((1 << i for i in order), or_, initial=0))
        least = data.draw(st.integers(0, len(order)))

        def good(mask, now=progress):
            return enough(schedule, now, mask)

        count = waits(good, first, least)
        assert count == next(k for k in range(least, len(first)) if good(first[k]))
        progress = heard(schedule, progress, first[count])
        assert finished(schedule, progress.done[-1])
        progress = following(schedule, progress)


@FEW
@given(schedules())
def test_units_of_a_job_are_computed_just_as_often_as_the_load_says(schedule):
    """With nobody away: all units, and together as many as all workers' rounds."""
    progress, counts = begin(schedule), {}
    for _ in range(3 * (schedule.delay + 1)):
        mine = [0] * schedule.workers
        for piece in schedule.plan(progress):
            for worker in range(schedule.workers):
                if piece.workers >> worker & 1:
                    share = schedule.share(worker, piece.part)
                    mine[worker] += len(share)
                    job = counts.setdefault(progress.round - piece.age, set())
                    job |= {unit for unit, _ in share}
        assert max(mine) <= schedule.per_round
        progress = following(schedule, heard(schedule, progress, everybody(schedule)))
    assert counts[schedule.delay] == set(range(schedule.units))


def test_loads_are_the_papers():
    n, b, w, lam = 256, 1, 2, 27
    assert load_of(Once(n, 15)) == 16 / 256
    assert load_of(Repeated(n, 2, 3, 23)) == 13 / 256
    formula = (lam + 1) * (w - 1 + b) / (n * (b + (w - 1) * (lam + 1)))
    assert load_of(Multiplexed(n, b, w, lam)) == pytest.approx(formula)
    assert load_of(Multiplexed(n, b, w, n)) == pytest.approx((w - 1 + b) / n / (w - 1))


def test_times_of_rounds_by_hand():
    """Three workers; the last row is needed although it is late."""
    times = [[1.0, 1.5, 1.9], [1.0, 1.5, 9.0], [1.0, 7.0, 9.0], [3.0, 1.0, 9.0]]
    assert list(round_times(Once(3, 1, "cyclic"), times, 1.0)) == [1.9, 2.0, 7.0, 3.0]
    assert list(round_times(Once(3, 1, "cyclic"), times, 0.0)) == [1.5, 1.5, 7.0, 3.0]
    assert list(round_times(Once(3, 0), times, 1.0)) == [1.9, 9.0, 9.0, 9.0]


def test_a_lost_task_is_repeated_once_by_the_one_who_lost_it():
    """SR-SGC with s = 1 and two of four away in round 0: one of them repeats."""
    schedule = Repeated(4, 1, 2, 2, "cyclic")
    progress = begin(schedule)
    assert enough(schedule, progress, 0b0011)
    progress = following(schedule, heard(schedule, progress, 0b0011))
    fresh, again = schedule.plan(progress)
    assert (fresh.age, fresh.workers) == (0, 0b1011)
    assert (again.age, again.workers) == (1, 0b0100)
    assert not enough(schedule, progress, 0b1011)  # the repeated one must come
    assert enough(schedule, progress, 0b0111)


def test_m_sgc_repeats_a_lost_plain_part_instead_of_the_coded_one():
    schedule = Multiplexed(4, 1, 2, 1, "cyclic")
    progress = following(schedule, heard(schedule, begin(schedule), 0b1101))
    plain, repeated, coded = schedule.plan(progress)
    assert (plain.age, plain.part, plain.workers) == (0, 0, 0b1111)
    assert (repeated.age, repeated.part, repeated.workers) == (1, 0, 0b0010)
    assert (coded.age, coded.part, coded.workers) == (1, 1, 0b1101)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: Repeated(8, 2, 4, 3), "nearest window is 5"),
        (lambda: Multiplexed(8, 2, 2, 3), "burst must be below window"),
        (lambda: Multiplexed(8, 1, 2, 9), "9 stragglers among 8 workers"),
        (lambda: Once(8, 8), "so that somebody answers"),
        (lambda: Repeated(8, 0, 2, 1), "burst must be at least 1"),
    ],
)
def test_impossible_schedules_are_refused(make, cause):
    with pytest.raises(ConfigError, match=cause):
        make()
