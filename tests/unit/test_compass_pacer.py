"""FedCompass's pacer: the rule by hand, and what goes wrong with simpler ones.

Each of the ``Naive`` rules below does one thing as the authors' code does it. The test
beside it passes with our pacer and shows what the naive rule would have done.
"""

from dataclasses import replace
from math import inf

import pytest

from fedcore.coordinator import Arrivals, Idle, Rules
from fedcore.errors import ConfigError
from fedcore.pacing import Start
from fedcore.strategy import Update
from strategies import compass_groups, compass_pacer
from strategies.compass import FedCompass
from strategies.compass_groups import Group, Steps, joined, learned, opening_steps
from strategies.compass_pacer import Compass
from tests.driving import ZERO, Drive

PACER = Compass(min_steps=2, max_steps=10)


def approx(x):
    return pytest.approx(x, abs=1e-9)


def folded(drive):
    return [answer for _, fold in drive.folds for answer in fold]


# The rule, by hand.


def test_a_schedule_computed_by_hand():
    drive = Drive(PACER, {"a", "b"})
    assert drive.starts == [(0, "a", 10), (0, "b", 10)]
    drive.answer(10, "a")  # 1 s a batch; opens a group for 20, until 25
    drive.answer(19, "a")  # 0.1 * 1 + 0.9 * 0.9 = 0.91; opens one for 28.1
    drive.answer(20, "b")  # 2 s a batch; 8.1 s are left: 4 batches
    assert drive.starts[2:] == [(10, "a", 10), (19, "a", 10), (20, "b", 4)]
    drive.answer(28, "b")  # on time: waits for a
    assert len(drive.starts) == 5
    drive.answer(28.5, "a")  # 0.1 * 0.91 + 0.9 * 0.95 = 0.946; opens one for 37.96
    assert drive.folds[-1] == (28.5, [("a", 2), ("b", 3)])
    assert drive.starts[5:] == [(28.5, "a", 10), (28.5, "b", 4)]
    assert drive.pacer.deadline_s(drive.pace) == approx(28.5 + 1.5 * 9.46)
    drive.answer(38, "a")  # waits for b, who does not come; 0.9496 s a batch
    drive.until(43)
    assert drive.folds[-1] == (approx(42.69), [("a", 4)])
    assert drive.starts[7:] == [(approx(42.69), "a", 10)]  # until 56.94
    drive.answer(44.5, "b")  # late: took 16 s; 0.1 * 2 + 0.9 * 4 = 3.8 s a batch
    # a's group leaves 7.7 s: 2 batches, and 2 are enough
    assert drive.starts[8:] == [(44.5, "b", 2)]
    drive.answer(52, "a", "b")
    assert drive.folds[-1] == (52, [("a", 5), ("b", 4), ("b", 5)])


def test_speeds_are_learned_from_what_was_given_and_how_long_it_took():
    assert learned(None, 30.0, 10, 0.9) == 3.0
    assert learned(3.0, 10.0, 10, 0.9) == approx(1.2)
    assert learned(None, 0.0, 10, 0.9) > 0  # speeds are divided by


def group(number, expected_s, latest_s, *working):
    return Group(number, expected_s, latest_s, frozenset(working))


@pytest.mark.parametrize(
    ("step_s", "number", "count"),
    [(1.0, 1, 8), (2.0, 3, 10), (4.0, 3, 5), (11.0, None, None), (0.5, None, None)],
)
def test_a_peer_joins_where_it_can_do_most(step_s, number, count):
    groups = [group(1, 108, 112), group(2, 106, 109), group(3, 120.5, 130)]
    found = joined(groups, 100, step_s, Steps(2, 10))
    assert (found and (found[0].number, found[1])) == (number and (number, count))


@pytest.mark.parametrize(
    ("step_s", "count"),
    [(3.0, 7), (11.0, 2), (1.0, 10), (2.3, 9)],
    # until 112 + 10 * 1 and 108 + 10 * 0.5: 22 s and 13 s are left
)
def test_or_opens_a_group_to_end_with_the_next_round_of_another(step_s, count):
    groups = [
        group(1, 108, 112, "a", "b"),
        group(2, 90, 95, "c"),
        group(3, 1, 108, "d"),
    ]
    speeds = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.5}
    assert opening_steps(groups, 100, step_s, speeds, Steps(2, 10)) == count


def test_the_fastest_start_first():
    drive = Drive(PACER, {"a", "b", "c"})
    drive.answer(10, "c")
    drive.answer(12, "b")  # fits into c's group: 8 s, 1.2 s a batch
    drive.answer(15, "a")
    drive.answer(19.5, "a", "b", "c")
    at = [(peer, steps) for t, peer, steps in drive.starts if t == 19.5]
    assert [peer for peer, _ in at] == sorted("abc", key=drive.pace.speeds.__getitem__)
    assert at[0][1] == 10


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"min_steps": 0}, "min_steps must be at least 1"),
        ({"max_steps": 19}, "max_steps must be at least min_steps"),
        ({"speed_momentum": 0.0}, "speed_momentum"),
        ({"latest_factor": 0.9}, "latest_factor"),
        ({"latest_factor": inf}, "latest_factor"),
        ({"patience_s": -1.0}, "patience_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, match):
    with pytest.raises(ConfigError, match=match):
        Compass(**wrong)


# What goes wrong with simpler rules.

ours = compass_pacer.closed


def naive_closed(pace, now_s):
    """Late answers go only with a group in which somebody is in time."""
    after = ours(replace(pace, late=()), now_s)
    if len(after.ready) == len(pace.ready):
        return replace(after, late=pace.late)
    fold = (*pace.late, *after.ready[-1])
    return replace(after, ready=(*after.ready[:-1], fold))


def naive_put_off(pace, update, *, fresh):
    """It makes no difference whether anything was folded since its work went out."""
    return replace(pace, late=(*pace.late, update))


def ever_slower(uploads):
    """Play one peer that takes twice as long each time: it is never in time again."""
    drive = Drive(PACER, {"a"})
    for i in range(uploads):
        _, steps = drive.working["a"]
        drive.answer(drive.now_s + steps * 2.0**i, "a")
    return drive


def test_nobody_starves_when_all_are_late(monkeypatch):
    assert len(ever_slower(20).folds) == 20
    monkeypatch.setattr(compass_pacer, "closed", naive_closed)
    monkeypatch.setattr(compass_pacer, "put_off", naive_put_off)
    assert len(ever_slower(20).folds) == 1


def late_beside_a_long_group():
    """Play a, late while b's group is open; return the versions of its last works."""
    drive = Drive(PACER, {"a", "b"})
    drive.answer(10, "a")
    drive.online.remove("a")
    drive.answer(20, "a")
    drive.answer(100, "b")  # 10 s a batch: a group until 250
    drive.come("a")
    before, _ = drive.working["a"]
    drive.answer(130, "a")  # its group ended at 115, with nothing to fold
    return before, drive.working["a"][0]


def test_no_peer_does_the_same_work_twice(monkeypatch):
    """From the same model, with the same batches: work of one version is one work."""
    before, after = late_beside_a_long_group()
    assert after == before + 1
    monkeypatch.setattr(compass_pacer, "put_off", naive_put_off)
    before, after = late_beside_a_long_group()
    assert after == before


def late_then_in_time():
    """Play the schedule above: b's late answer waits for a group that b joins."""
    drive = Drive(PACER, {"a", "b"})
    times = [10, 19, 20, 28, 28.5, 38, 44.5]
    for now_s, peer in zip(times, "aabbaab", strict=True):
        drive.answer(now_s, peer)
    assert len(drive.pace.late) == 1
    drive.answer(52, "a", "b")
    return drive


def naive_one_each(pace, now_s):
    """A fold has one answer of each peer: a later one replaces an earlier one."""
    after = ours(pace, now_s)
    ready = (tuple({u.peer: u for u in fold}.values()) for fold in after.ready)
    return replace(after, ready=tuple(ready))


def test_a_late_answer_is_not_replaced_by_the_next(monkeypatch):
    drive = late_then_in_time()
    assert sorted(folded(drive)) == sorted(drive.sent)
    assert [peer for peer, _ in drive.folds[-1][1]] == ["a", "b", "b"]
    monkeypatch.setattr(compass_pacer, "closed", naive_one_each)
    drive = late_then_in_time()
    assert len(drive.sent) - len(folded(drive)) == 1


def test_an_answer_counts_where_it_is_folded_and_nowhere_else(monkeypatch):
    """The naive count has a late answer when it comes, and again when it is folded."""
    late = []
    put_off = compass_pacer.put_off

    def counting(pace, update, *, fresh):
        late.append(update)
        return put_off(pace, update, fresh=fresh)

    monkeypatch.setattr(compass_pacer, "put_off", counting)
    drive = late_then_in_time()
    assert len(folded(drive)) == len(set(folded(drive))) == len(drive.sent) == 9
    assert len(folded(drive)) + len(late) == 10


def naive_waiting(pace, now_s):
    """A group stays until the last of its members has come."""
    after = ours(pace, now_s)
    open_now = {g.number for g in after.groups}
    gone = [g for g in pace.groups if g.working and g.number not in open_now]
    kept = (replace(g, expected_s=0.0, latest_s=1e18, arrived=()) for g in gone)
    return replace(after, groups=(*kept, *after.groups))


def come_and_go(count):
    """Play ``count`` peers who answer once, start again and are not heard again."""
    drive = Drive(PACER, {"z"})
    for i in range(count):
        drive.until(100.0 * i)
        drive.come(f"p{i}")
        drive.answer(100.0 * i + 10, f"p{i}")
    drive.until(100.0 * count)
    return drive


def test_who_never_returns_leaves_no_group_behind(monkeypatch):
    assert come_and_go(30).pace.groups == ()
    monkeypatch.setattr(compass_pacer, "closed", naive_waiting)
    assert len(come_and_go(30).pace.groups) == 30


class Trusting(Compass):
    """Believes a peer who says how many batches it has done."""

    def _heard(self, pace, update, now_s):
        job = pace.jobs[update.peer]
        job = replace(job, steps=int(update.metrics.get("steps", job.steps)))
        pace = replace(pace, jobs={**pace.jobs, update.peer: job})
        return super()._heard(pace, update, now_s)


@pytest.mark.parametrize(("rule", "slowest_s"), [(Compass, 1.0), (Trusting, 10.0)])
def test_what_a_peer_says_of_its_speed_counts_nothing(rule, slowest_s):
    """It says "one batch in ten seconds": all would wait for it ten times as long."""
    drive = Drive(rule(min_steps=2, max_steps=10), {"a"})
    drive.answer(10, "a", steps=1, took_s=1e9, seconds=1e9)
    assert drive.pace.speeds == {"a": slowest_s}
    assert drive.pace.groups[0].latest_s == 10 + 1.5 * 10 * slowest_s


@pytest.mark.parametrize(("patience_s", "folded_s"), [(inf, 25000), (30.0, 20030)])
def test_patience_bounds_what_a_slow_peer_costs_a_quick_one(patience_s, folded_s):
    """The slow one is not heard again when the quick one has joined it for the end."""
    drive = Drive(Compass(2, 10, patience_s=patience_s), {"quick", "slow"})
    drive.answer(10, "quick")
    drive.online.remove("quick")
    drive.answer(20, "quick")
    drive.answer(10000, "slow")  # 1000 s a batch: opens a group for 20000
    drive.until(19991)
    drive.come("quick")
    assert drive.starts[-1] == (19991, "quick", 9)
    drive.answer(20000, "quick")
    drive.until(10**6)
    assert drive.folds[-1] == (folded_s, [("quick", 3)])


def equally_fast(rounds, step_s=0.1):
    """Play ten peers of one speed; return the batches given in the last round."""
    peers = [f"p{i}" for i in range(10)]
    drive = Drive(Compass(20, 100), set(peers))
    for _ in range(rounds):
        _, steps = drive.working[peers[0]]
        drive.answer(drive.now_s + steps * step_s, *peers)
        drive.until(drive.now_s + 1e-6)
    return [steps for _, steps in drive.working.values()]


def test_equal_speeds_keep_all_their_batches(monkeypatch):
    """Nor do the last digits of a division take one from some in every round."""
    assert equally_fast(10) == [100] * 10
    monkeypatch.setattr(compass_groups, "SLACK", 1)
    assert min(equally_fast(10)) < 100


# Who leaves, and who was never there.


def in_one_group():
    drive = Drive(PACER, {"a", "b"})
    drive.answer(10, "a", "b")
    drive.until(10.5)
    assert [len(g.working) for g in drive.pace.groups] == [2]
    return drive


def test_a_group_does_not_wait_for_who_is_lost():
    drive = in_one_group()
    drive.answer(18, "a")
    drive.lose(19, "b")
    assert drive.folds[-1] == (19, [("a", 1)])


def test_a_group_whose_last_member_is_lost_is_gone():
    drive = in_one_group()
    drive.online.clear()
    drive.lose(12, "a")
    assert [g.working for g in drive.pace.groups] == [frozenset("b")]
    drive.lose(13, "b")
    assert drive.pace.groups == ()
    assert drive.pacer.deadline_s(drive.pace) == inf


def test_late_answers_do_not_wait_for_a_group_that_is_lost():
    drive = Drive(PACER, {"a", "b"})
    drive.answer(10, "a")
    drive.answer(100, "b")  # b's group is open until 250, a's time is long over
    drive.online.clear()
    drive.answer(120, "a")
    assert folded(drive)[-1] == ("b", 0)
    drive.lose(130, "b")
    assert drive.folds[-1] == (130, [("a", 1)])


def test_who_answered_and_went_offline_is_folded_and_may_return():
    drive = in_one_group()
    drive.answer(18, "a")
    drive.online.remove("a")
    drive.answer(20, "b")
    assert drive.folds[-1] == (20, [("a", 1), ("b", 2)])
    drive.until(22)
    drive.come("a")
    assert drive.starts[-1][:2] == (22, "a")
    assert drive.pace.jobs["a"].group > 0  # its speed is known


def test_a_lost_newcomer_is_a_newcomer_again():
    drive = Drive(PACER, {"a"})
    drive.lose(1000, "a")
    assert drive.starts == [(0, "a", 10), (1000, "a", 10)]
    assert drive.pace.speeds == {}


def test_an_answer_to_no_work_of_ours_is_late_not_lost():
    drive = in_one_group()
    stranger = Update("x", 0, ZERO, 1)
    pace, fold = PACER.take(drive.pace, [stranger], 11)
    assert (pace.late, fold) == ((stranger,), [])
    assert PACER.take(PACER.init(), [stranger], 11)[1] == [stranger]


RULES = Rules(FedCompass(clients=2), PACER)


def at_work():
    """Return a desk whose only peer is at work in a group, since t = 10."""
    desk = RULES.begin(ZERO)
    desk, [(_, work)] = RULES.step_out(desk, Idle(["a"], 0.0))
    first = Update("a", work.version, ZERO, 1)
    desk, _ = RULES.step_in(desk, RULES.judge(desk, Arrivals([first]), 10.0))
    desk, _ = RULES.step_out(desk, Idle(["a"], 10.0))
    return desk


def heard(desk, *updates, now_s):
    event = RULES.judge(desk, Arrivals(updates), now_s)
    after, fold = RULES.step_in(desk, event)
    return after, [r.kind for r in fold.refused], [u.version for u in fold.folded]


def test_who_returns_twice_is_folded_once():
    good = Update("a", 1, ZERO, 1)
    desk, refused, done = heard(at_work(), good, good, now_s=15.0)
    assert (refused, done) == (["unasked"], [1])
    assert heard(desk, good, now_s=16.0)[1:] == (["unasked"], [])


def test_who_returns_for_an_old_group_is_folded_late():
    desk, _, done = heard(at_work(), now_s=25.0)  # its latest time
    assert (done, desk.pace.groups) == ([], ())
    assert heard(desk, Update("a", 1, ZERO, 1), now_s=99.0)[1:] == ([], [1])


def test_who_changes_shape_is_refused_and_leaves_its_group():
    desk, refused, done = heard(
        at_work(), Update("a", 1, {"v": ZERO["w"]}, 1), now_s=15.0
    )
    assert (len(refused), done, desk.pace.groups) == (1, [], ())
    assert PACER.assign(desk.pace, ["a"], 16.0)[1] == [Start("a", 10)]
