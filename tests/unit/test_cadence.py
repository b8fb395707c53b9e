"""FedCadence and its pacer: the rule by hand."""

from math import inf

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.coordinator import coordinate
from fedcore.errors import ConfigError
from fedcore.pacing import Synchronous
from fedcore.params import norm, sub
from fedcore.strategy import Update
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.cadence import FedCadence
from strategies.cadence_pacer import Cadence
from strategies.fedavg import FedAvg
from tests.driving import Drive

PACER = Cadence(min_steps=2, max_steps=10)


def test_a_schedule_computed_by_hand():
    """a takes 1 s a batch, b 2 s, c 10 s; a beat may last one and a half times T."""
    drive = Drive(PACER, {"a", "b", "c"})
    assert drive.starts == [(0, "a", 2), (0, "b", 2), (0, "c", 2)]
    drive.answer(2, "a")  # nobody's speed was known: the others have until 3
    drive.answer(4, "b")  # late: goes with the next
    assert drive.folds == [(3, [("a", 0)])]
    drive.answer(13, "a")
    assert drive.starts[3:] == [(3, "a", 10), (13, "a", 10), (13, "b", 5)]
    drive.answer(20, "c")  # the first answer of the slow one
    drive.answer(23, "a", "b")
    assert drive.folds[1:] == [
        (13, [("a", 1), ("b", 0)]),
        (23, [("a", 2), ("b", 2), ("c", 0)]),
    ]
    assert drive.starts[6:] == [(23, "a", 10), (23, "b", 5), (23, "c", 2)]
    drive.answer(33, "a", "b")  # c cannot do 2 batches in 10 s: nobody waits for it
    drive.answer(43, "a", "b", "c")
    assert drive.folds[3:] == [
        (33, [("a", 3), ("b", 3)]),
        (43, [("a", 4), ("b", 4), ("c", 3)]),
    ]


def test_of_equally_fast_peers_every_beat_is_a_whole_round():
    drive = Drive(PACER, {"a", "b", "c"})
    for now_s in (0.2, 1.2, 2.2, 3.2):
        drive.answer(now_s, "a", "b", "c")
    assert [len(fold) for _, fold in drive.folds] == [3, 3, 3, 3]
    assert {steps for t, _, steps in drive.starts if t > 0} == {10}


def test_one_very_fast_peer_does_not_leave_the_others_behind():
    drive = Drive(PACER, {"a", "b", "c"})
    drive.answer(0.002, "a")
    drive.until(0.004)
    drive.answer(2, "b")  # T was 10 batches of a; a has done many of them since
    drive.until(2.1)
    drive.answer(2.2, *(p for p in ("a", "c") if p in drive.working))
    drive.until(10)
    drive.answer(11, *drive.working)
    assert {s for _, peer, s in drive.starts[-3:] if peer != "a"} == {2}
    assert len(drive.folds[-1][1]) == 3


def test_nobody_waits_for_the_late_longer_than_the_patience():
    drive = Drive(PACER, {"a", "b"})
    drive.answer(2, "a", "b")
    drive.answer(12, "a")
    assert drive.pacer.deadline_s(drive.pace) == 17  # from 2, one and a half times 10
    drive.until(18)
    assert drive.folds[-1] == (17, [("a", 1)])
    drive.answer(19, "b")
    drive.answer(27, "a")
    assert drive.folds[-1] == (27, [("a", 2), ("b", 1)])


def test_a_beat_does_not_wait_for_who_is_lost():
    drive = Drive(PACER, {"a", "b"})
    drive.answer(2, "a", "b")
    drive.answer(12, "a")
    drive.lose(13, "b")
    assert drive.folds[-1] == (13, [("a", 1)])


def test_when_all_are_late_the_first_answer_is_folded_at_once():
    drive = Drive(PACER, {"a", "b"})
    drive.answer(2, "a", "b")
    drive.until(100)
    drive.answer(101, "b")
    assert drive.folds[-1] == (101, [("b", 1)])


def test_a_newcomer_waits_for_the_beat_and_is_not_waited_for():
    drive = Drive(PACER, {"a"})
    drive.answer(2, "a")
    drive.come("b")
    drive.answer(12, "a")
    assert drive.starts[-2:] == [(12, "a", 10), (12, "b", 2)]
    drive.answer(22, "a")
    assert drive.folds[-1] == (22, [("a", 2)])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"min_steps": 0}, "min_steps must be at least 1"),
        ({"max_steps": 4}, "max_steps must be at least 5"),
        ({"speed_momentum": 0.0}, "speed_momentum"),
        ({"latest_factor": inf}, "latest_factor"),
    ],
)
def test_settings_of_the_pacer_that_cannot_be_are_refused(wrong, match):
    with pytest.raises(ConfigError, match=match):
        Cadence(**wrong)


@pytest.mark.parametrize("evening", [-0.1, 1.1, float("nan")])
def test_evening_is_a_share(evening):
    with pytest.raises(ConfigError, match="evening"):
        FedCadence(evening=evening)


def told(peer, version, number, examples, **metrics):
    return Update(peer, version, {"w": torch.tensor([number])}, examples, metrics)


def applied(rules, *rounds):
    """Return the one weight after ``rounds`` of answers, from 0."""
    state = rules.init({"w": torch.zeros(1)})
    for updates in rounds:
        state = rules.apply(state, updates)
    return state.params["w"].item()


def test_answers_count_by_examples_and_are_brought_nearer_to_one_length():
    us = [told("a", 0, 1.0, 1, steps=1.0), told("b", 0, 10.0, 3, steps=4.0)]
    # at 0.5, a counts for 1 and b for 3 / 2: shares of 0.4 and 0.6
    expected = {0.0: 0.25 + 7.5, 0.5: 0.4 + 6.0, 1.0: (4 + 30) / 7}
    for evening, value in expected.items():
        got = applied(FedCadence(evening=evening), us)
        assert got == pytest.approx(value, rel=1e-6)


def test_examples_of_the_absent_count_and_age_weakens():
    first = [told("a", 0, 0.0, 1, steps=1.0), told("b", 0, 0.0, 3, steps=1.0)]
    late = [told("a", 0, 8.0, 1, steps=5.0)]  # one fold old: 8 / 4 / sqrt(2)
    assert applied(FedCadence(gain=2.0), first, late) == pytest.approx(4 / 2**0.5)


@pytest.mark.parametrize("claim", [float("nan"), inf, -3.0, 0.0, 1e-30, 1e300])
def test_a_lie_about_batches_moves_weight_and_adds_none(claim):
    us = [told("a", 0, 1.0, 1, steps=claim), told("b", 0, 1.0, 1, steps=9.0)]
    assert applied(FedCadence(), us) == pytest.approx(1.0)


def test_between_equal_devices_it_is_fedavg():
    tasks = {f"p{i}": Line(seed=i) for i in range(3)}
    start = Line(seed=0).model().state_dict()
    ends = []
    for rules, pacer in (
        (FedCadence(), Cadence(4, 4)),
        (FedAvg(steps=4), Synchronous(cohort=3)),
    ):
        link = VirtualLink(SGD(lr=0.05), tasks)
        ends.append(coordinate(rules, pacer, link, start, 5).params)
    assert norm(sub(*ends)) < 1e-6 * norm(ends[0])
    assert norm(sub(ends[0], start)) > 0.01
