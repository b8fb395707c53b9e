"""Models as integers: the arithmetic, what goes over the wire, and what is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.codec import encode_updates, encode_work
from fedcore.coordinator import Arrivals, Rules
from fedcore.desk import Idle
from fedcore.errors import ConfigError, ProtocolError
from fedcore.fields import entries_of
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.pool import Pool, direction
from fedcore.ring import ONE
from fedcore.rounds import run_rounds
from fedcore.strategy import Update
from fedcore.task import params_of
from sims.runs.checks import check_told, check_votes
from sims.runs.personal import personal
from strategies.fedkseed import FedKSeed, FedKSeedPro, chances
from strategies.ferret import Ferret
from strategies.mezo import MeZO
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
from tests.e2e.normed import Normed
from tests.probed import START, Half, line_of

POOL = Pool(8)


def told(amounts, examples=1, version=0, peer="p0"):
    """Return an update that says ``amounts``, one for each of 8 directions."""
    payload = {"coefficients": torch.tensor(amounts, dtype=torch.float32)}
    return Update(peer, version, payload, examples)


def one(k, amount):
    return [amount if i == k else 0.0 for i in range(8)]


# Arithmetic.


@pytest.mark.parametrize("by", [1, 2, 3, 4, 7])
def test_division_rounds_half_to_even(by):
    whole = torch.arange(-30, 31)
    wanted = [round(Fraction(n, by)) for n in whole.tolist()]
    assert divided(whole, by).tolist() == wanted


def test_a_mean_is_exact_where_floats_are_not():
    pairs = [(1.5, 3), (-0.25, 5), (2.0**-31, 7)]
    us = [told([v] * 8, w, peer=f"p{w}") for v, w in pairs]
    exact = sum(Fraction(v) * w for v, w in pairs) / 15
    assert mean_of_integers(us, "coefficients").tolist() == [round(exact * ONE)] * 8


def test_a_mean_whose_sum_leaves_the_ring_is_still_exact():
    us = [told([999.5] * 8, 1_000_000, peer=f"p{i}") for i in range(5)]  # 1.16 * 2^64
    mean = mean_of_integers(us, "coefficients").tolist()
    assert mean == [round(Fraction(999.5) * ONE)] * 8


def test_coefficients_move_the_weights_and_not_the_statistics():
    base = {"w": torch.ones(2), "norm.running_mean": torch.full((2,), 5.0)}
    state = folded(begun(base, POOL, -0.5), [told(one(3, 0.25))], rotate=0)
    z = direction(POOL, 3, 2)
    assert state.params["w"].tolist() == (1 - 0.125 * z).tolist()
    assert state.params["norm.running_mean"].tolist() == [5.0, 5.0]
    assert list(state.params) == list(base)
    assert state.params is state.params  # expanded once


def test_a_new_pool_begins_on_top_of_what_was_learnt():
    state = begun(START, POOL, 1.0)
    for version in range(3):  # epochs 0, 0, 1
        state = folded(state, [told(one(2, 0.5), version=version)], rotate=2)
    half = ONE // 2
    assert state.coefficients.tolist() == [one(2, 2 * half), one(2, half)]
    first, second = (direction(POOL, 2, 4, epoch=e) for e in (0, 1))
    assert not torch.equal(first, second)
    wanted = line_of(START) + first + 0.5 * second
    assert line_of(state.params).tolist() == wanted.tolist()


def test_a_late_answer_counts_for_the_pool_it_was_made_for():
    state = begun(START, POOL, 1.0)
    for version in range(2):
        state = folded(state, [told(one(0, 0.0), version=version)], rotate=2)
    late = [told(one(1, 1.0), 3, 1, "a"), told(one(1, 1.0), 1, 2, "b")]
    after = folded(state, late, rotate=2)
    assert after.coefficients[:, 1].tolist() == [3 * ONE // 4, ONE // 4]


def test_saturation_is_held_and_counted():
    state = begun(START, POOL, 1.0)
    state.coefficients[0, 5] = limit(8) - ONE // 2
    after = folded(state, [told(one(5, 1.0))], rotate=0)
    assert after.coefficients[0, 5] == limit(8)
    assert after.cut == 1
    assert all(t.isfinite().all() for t in after.params.values())


def test_small_updates_are_not_lost_in_bfloat16():
    """One rounding at the end; step by step, none of these would move anything."""
    ones = {"w": torch.ones(4, dtype=torch.bfloat16)}
    state = begun(ones, POOL, 1.0)
    for version in range(64):
        state = folded(state, [told(one(0, 2.0**-10), version=version)], rotate=0)
    tiny = torch.tensor(2.0**-10, dtype=torch.bfloat16)
    assert torch.equal(ones["w"] + tiny, ones["w"])
    moved = (state.params["w"].float() - 1) * direction(POOL, 0, 4)
    assert moved.tolist() == [2.0**-4] * 4


# Draws.


def test_draws_are_the_same_on_every_machine():
    random = drawn(Pool(1024, tie="shift"), "peer-000001", 3, 0, 6)
    assert indices(random, 1024).tolist() == [10, 518, 425, 852, 901, 3]


def test_chances_divide_the_words_in_proportion():
    random = np.arange(8, dtype=np.uint64)
    assert indices(random, 4).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    odds = torch.tensor([1, 2, 0, 1], dtype=torch.uint8)
    assert indices(random, 4, odds).tolist() == [0, 1, 1, 3, 0, 1, 1, 3]


def test_chances_are_the_softmax_of_slopes_between_0_and_1():
    sizes = torch.tensor([1, 3, 0, 4]) * ONE
    counts = torch.tensor([1, 1, 0, 2]) * ONE  # slopes 1, 3, unknown, 2: the mean
    e = 2.718281828459045
    wanted = [93, round(93 * e), round(93 * e**0.5), round(93 * e**0.5)]
    assert chances(sizes, counts).tolist() == wanted


def test_chances_are_even_while_nothing_is_known_or_all_is_alike():
    none = torch.zeros(4, dtype=torch.int64)
    assert set(chances(none, none).tolist()) == {93}
    assert set(chances(none + 5, none + 5).tolist()) == {93}


def test_pro_forgets_slopes_with_the_pool_they_belong_to():
    rules = FedKSeedPro(size=8, rotate=2, steps=2)
    state = rules.init(params_of(Normed(0).model()))
    seen = []
    for _ in range(3):
        state = rules.apply(state, [SGD()(Normed(0), rules.work(state, "p"), "p")])
        seen.append(bool(state.counts.any()))
    assert seen == [True, False, True]


# On the wire.


def size_bytes(rules, params, task):
    """Return the bytes of one round for one client that has the base: down and up."""
    state = rules.init(params)
    work = rules.work(state, "peer-000000")
    assert work.params is params
    assert work.hints["base"] == digest(params)
    update = SGD()(task, work, "peer-000000")
    return len(encode_work(replace(work, params={}))), len(encode_updates([update]))


@pytest.mark.parametrize("make", [FedKSeed, OneByte])
def test_a_round_is_below_18_kilobytes_whatever_the_model(make):
    task = Normed(0)
    params = params_of(task.model())
    small = size_bytes(make(steps=20), params, task)
    assert sum(small) < 18_000

    class Wide(Normed):
        def model(self):
            model = super().model()
            model.register_parameter("more", torch.nn.Parameter(torch.zeros(50_000)))
            return model

    wide = size_bytes(make(steps=20), params_of(Wide(0).model()), Wide(0))
    assert wide == small


def test_one_byte_is_one_byte_a_step():
    task = Normed(0)
    _, up = size_bytes(OneByte(steps=200), params_of(task.model()), task)
    assert up <= 2 * 200


def test_pro_sends_a_byte_a_direction_more_and_hears_three_numbers():
    task = Normed(0)
    params = params_of(task.model())
    down, up = size_bytes(FedKSeed(steps=2), params, task)
    more_down, more_up = size_bytes(FedKSeedPro(steps=2), params, task)
    assert more_down - down < 1024 + 50
    assert more_up - up <= 2 * 4 * 1024 + 50


# The same bits.


@pytest.mark.parametrize("task", [Normed, Half])
@pytest.mark.parametrize(
    "rules",
    [
        FedKSeed(size=16, steps=3, rotate=2),
        FedKSeedPro(size=16, steps=3),
        OneByte(size=16, steps=3),
        MeZO(steps=3),
    ],
    ids=lambda rules: type(rules).__name__,
)
def test_one_thread_or_two_float32_or_bfloat16(rules, task):
    tasks = {f"p{i}": task(i) for i in range(2)}
    start = params_of(tasks["p0"].model().requires_grad_(False))
    start = {n: torch.full_like(t, 0.5) for n, t in start.items()}
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(run_rounds(rules, SGD(), tasks, start, 3).params)
    torch.set_num_threads(before)
    assert digest(found[0]) == digest(found[1]) != digest(start)
    assert {t.dtype for t in found[0].values()} == {t.dtype for t in start.values()}


def test_peers_are_evaluated_with_the_model_they_would_make():
    rules, tasks = FedKSeed(size=16, steps=3), {"p0": Normed(0)}
    start = {n: t.abs() + 0.5 for n, t in params_of(Normed(0).model()).items()}
    state = run_rounds(rules, SGD(), tasks, start, 2)
    assert rules.model(state, "p0") is state.params
    own = personal(rules, state, tasks)["p0"]["loss"]
    model = Normed(0).model()
    model.load_state_dict(state.params, strict=False)
    assert own == Normed(0).evaluate(model)["loss"]


# What is refused.


@pytest.mark.parametrize(
    ("make", "settings", "told"),
    [
        (FedKSeed, {"size": 1000}, "power of two"),
        (FedKSeed, {"lr": 0.0}, "lr"),
        (FedKSeed, {"eps": -1.0}, "eps"),
        (FedKSeed, {"clip": float("inf")}, "clip"),
        (FedKSeed, {"clip": 1e5}, "clip"),
        (FedKSeed, {"rotate": -1}, "rotate"),
        (FedKSeed, {"directions": 0}, "directions"),
        (FedKSeed, {"pool": "gausian"}, "gaussian"),
        (FedKSeed, {"steps": 1 << 17}, "65536"),
        (FedKSeed, {"directions": 1 << 17}, "65536"),
        (FedKSeedPro, {"steps": 1 << 15, "directions": 3}, "probes"),
        (FedKSeedPro, {"seed": -1}, "seed"),
        (OneByte, {"steps": 0}, "steps"),
        (OneByte, {"sigma": 3.0}, "power of two"),
        (OneByte, {"steps": 1 << 15, "directions": 3}, "probes"),
        (MeZO, {"steps": 0}, "steps"),
        (MeZO, {"steps": 1 << 17}, "65536"),
        (MeZO, {"tie": "flop"}, "flip"),
    ],
)
def test_settings_that_cannot_be(make, settings, told):
    with pytest.raises(ConfigError, match=told):
        make(**settings)


@pytest.mark.parametrize("make", [FedKSeed, FedKSeedPro, OneByte, MeZO])
def test_every_key_has_help(make):
    assert all(entry.help for entry in entries_of(make))


def test_defaults_are_those_of_the_pool():
    assert FedKSeed().shared() == FedKSeedPro().shared() == OneByte().shared() == Pool()
    assert MeZO().probing().shared() == Pool(2)


def refusal_of(rules, payload):
    """Return why the gate turns an answer with ``payload`` away; None if it is good."""
    server = Rules(rules, Synchronous(cohort=1))
    desk, _ = server.step_out(server.begin(START), Idle(["p0"], 0.0))
    heard = server.judge(desk, Arrivals([Update("p0", 0, payload, 1)]), 1.0)
    return heard.refused[0].kind if heard.refused else None


@pytest.mark.parametrize(
    ("rules", "payload", "kind"),
    [
        (OneByte(steps=4), {"bytes": torch.zeros(3, dtype=torch.uint8)}, "shape"),
        (OneByte(steps=4), {"bytes": torch.zeros(4, dtype=torch.int8)}, "dtype"),
        (OneByte(steps=4), {"bytes": torch.zeros(4, dtype=torch.uint8)}, None),
        (FedKSeed(size=8), {"coefficients": torch.full((8,), torch.nan)}, "nan"),
        (FedKSeed(size=8), {"coefficients": torch.full((8,), 2e3)}, "value-huge"),
        (FedKSeed(size=8), {"coefficients": torch.zeros(16)}, "shape"),
        (FedKSeed(size=8), {"coefficients": torch.zeros(8).long()}, "ring"),
        (MeZO(steps=2), {"scalars": torch.tensor([torch.inf, 0.0])}, "infinite"),
    ],
)
def test_the_gate_turns_bad_answers_away(rules, payload, kind):
    assert refusal_of(rules, payload) == kind


def test_bytes_that_are_not_some_for_each_step_are_refused_by_name():
    rules = OneByte(steps=2, directions=2)
    odd = Update("eve", 0, {"bytes": torch.zeros(3, dtype=torch.uint8)}, 1)
    with pytest.raises(ProtocolError, match="eve"):
        rules.apply(rules.init(START), [odd])


def test_a_byte_for_a_very_heavy_peer_does_not_wrap():
    rules = OneByte(steps=4, sigma=2.0**19, clip=1e4)
    heavy = Update("p0", 0, {"bytes": torch.full((4,), 127).byte()}, 10_000_000)
    after = rules.apply(rules.init(START), [heavy])
    assert after.cut > 0
    assert (after.coefficients >= 0).all()


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -1.0, 1e300])
@pytest.mark.parametrize("rules", [OneByte(steps=2, size=8), MeZO(steps=2)])
def test_a_turn_that_is_no_count_is_0(rules, lie):
    state = rules.init(START)
    payload = {
        name: torch.ones_like(t)
        for name, t in rules.expects(rules.work(state, "eve")).items()
    }
    honest, odd = (Update("eve", 0, payload, 1, m) for m in ({}, {"turn": lie}))
    ends = [digest(rules.apply(state, [u]).params) for u in (honest, odd)]
    assert ends[0] == ends[1] != digest(START)


def test_rotation_needs_rounds_of_one_version():
    check_votes(FedKSeed(rotate=5), Synchronous())
    check_votes(FedKSeed(), Buffered())
    with pytest.raises(ConfigError, match="synchronous"):
        check_votes(FedKSeed(rotate=5), Buffered())
    for rules in (FedKSeed(rotate=5), Ferret()):
        with pytest.raises(ConfigError, match="rotate=0"):
            check_votes(rules, Buffered())


def test_one_byte_goes_by_what_privacy_would_drop():
    check_told(FedKSeed(), private=True)
    with pytest.raises(ConfigError, match="turn"):
        check_told(OneByte(), private=True)
