"""Asynchronous strategies: weights by age, and each one's sum, by hand."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.config import from_flags
from fedcore.coordinator import Coordinator, Rules, coordinate
from fedcore.errors import ConfigError
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.strategy import Update
from sims.line import Line
from sims.runs.config import configured
from sims.world.virtual import VirtualLink
from strategies import STRATEGIES
from strategies.compass import FedCompass
from strategies.compass_pacer import Compass
from strategies.fedasync import FedAsync
from strategies.fedavg import FedAvg, Model
from strategies.fedbuff import FedBuff
from strategies.staleness import freshness, pulled
from tests.cases import TRAINER

ZERO = {"w": torch.zeros(2)}
ALL = ("fedasync", "fedbuff", "fedcompass")
TASKS = {f"peer{i}": Line(seed=i) for i in range(3)}


def tree(*numbers):
    return {"w": torch.tensor(numbers)}


def moved_by(peer, version, *numbers, examples=1):
    return Update(peer, version, tree(*numbers), examples)


def weights(kind, a, b, ages):
    rules = SimpleNamespace(staleness=kind, a=a, b=b)
    return [freshness(rules, 100, moved_by("p", 100 - age, 0.0, 0.0)) for age in ages]


def test_weights_by_age():
    assert weights("constant", 9.0, 9.0, [0, 99]) == [1, 1]
    assert weights("polynomial", 0.5, 9.0, [0, 3, 15]) == [1, 0.5, 0.25]
    assert weights("polynomial", 0.0, 9.0, [0, 3]) == [1, 1]
    assert weights("hinge", 10.0, 4.0, [0, 4, 5, 6]) == [1, 1, 1 / 11, 1 / 21]


@given(
    st.sampled_from(["constant", "polynomial", "hinge"]),
    st.floats(0, 20),
    st.floats(0, 20),
)
@settings(deadline=None, max_examples=50)
def test_weights_fall_with_age_from_one_and_stay_above_zero(kind, a, b):
    found = weights(kind, a, b, range(40))
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"staleness": "polynomal"}, 'no "polynomal"; the nearest is "polynomial"'),
        ({"a": -1.0}, "a must be at least 0"),
        ({"b": float("inf")}, "b must be at least 0 and finite"),
        ({"steps": -1}, "steps"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, wrong, match):
    with pytest.raises(ConfigError, match=match):
        STRATEGIES[name](**wrong)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (FedAsync, {"gain": 1.1}),
        (FedAsync, {"history": -1}),
        (FedAsync, {"mu": -0.1}),
        (FedBuff, {"server_lr": 0.0}),
        (FedCompass, {"gain": 0.0}),
        (FedCompass, {"clients": -1}),
        (FedCompass, {"shares": "eve"}),
        (FedBuff, {"shares": ""}),
    ],
)
def test_settings_of_one_that_cannot_be(make, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make(**wrong)


def test_a_variance_stays_at_least_zero_and_a_mean_does_not():
    start = {
        "norm.running_var": torch.tensor([1.0]),
        "norm.running_mean": torch.tensor([1.0]),
    }
    stale = {name: torch.tensor([-3.0]) for name in start}
    got = pulled(start, [stale, stale], [0.5, 0.5])
    assert {name: t.item() for name, t in got.items()} == {
        "norm.running_var": 0.0,
        "norm.running_mean": -2.0,
    }


# FedCompass and FedBuff: a sum of differences.


def test_compass_gives_every_peer_an_even_share_that_falls_with_age():
    rules = FedCompass(gain=0.8, clients=4)
    state = rules.init(ZERO)
    for _ in range(3):
        state = rules.apply(state, [moved_by("c", state.version, 0.0, 0.0)])
    fresh, old = moved_by("a", 3, 5.0, 10.0, examples=99), moved_by("b", 0, 10.0, 0.0)
    got = rules.apply(state, [fresh, old])
    # 0.8 / 4 = 0.2; three folds old: (1 + 3)^-0.5 = 0.5
    assert got.params["w"].tolist() == [0.2 * 5 + 0.1 * 10, 0.2 * 10]
    assert (got.version, sorted(got.sizes)) == (4, ["a", "b", "c"])


def test_compass_counts_the_peers_heard_if_nobody_told_it_how_many():
    rules = FedCompass(gain=1.0)
    state = rules.apply(rules.init(ZERO), [moved_by("a", 0, 8.0, 8.0)])
    assert state.params["w"].tolist() == [8, 8]
    twice = [moved_by("a", 1, 4.0, 0.0), moved_by("b", 1, 0.0, 2.0)]
    assert rules.apply(state, twice).params["w"].tolist() == [10, 9]


def test_compass_shares_by_examples_among_all_it_has_heard():
    rules = FedCompass(gain=1.0, clients=4, shares="examples")
    state = rules.apply(rules.init(ZERO), [moved_by("a", 0, 0.0, 0.0, examples=30)])
    us = [
        moved_by("b", 1, 8.0, 0.0, examples=10),
        moved_by("c", 1, 0.0, 8.0, examples=20),
    ]
    # 1 / 4 each, times 10 / 20 and 20 / 20: the mean of all three is 20
    assert rules.apply(state, us).params["w"].tolist() == [1, 2]


def test_buff_shares_by_examples_among_the_buffered():
    us = [moved_by("a", 0, 4.0, 0.0, examples=3), moved_by("b", 0, 0.0, 4.0)]
    got = FedBuff(shares="examples").apply(Model(0, ZERO), us)
    assert got.params["w"].tolist() == [3, 1]


@pytest.mark.parametrize(
    "rules", [FedBuff(shares="examples"), FedCompass(1.0, shares="examples")]
)
def test_by_examples_fresh_answers_of_all_are_fedavg(rules):
    us = [moved_by(f"p{i}", 0, 1.0 * i, 2.0 * i, examples=2**i) for i in range(4)]
    want = FedAvg().apply(Model(0, ZERO), us).params["w"]
    assert torch.allclose(rules.apply(rules.init(ZERO), us).params["w"], want)


def test_buff_takes_the_mean_whatever_the_number_and_the_ages():
    rules, state = FedBuff(server_lr=2.0), Model(8, ZERO)
    got = rules.apply(state, [moved_by("a", 8, 3.0, 0.0), moved_by("b", 0, 0.0, 9.0)])
    # 2 / 2 = 1; eight folds old: (1 + 8)^-0.5 = 1/3
    assert got.params["w"].tolist() == [3.0, 3.0]
    assert got.version == 9


@pytest.mark.parametrize("rules", [FedCompass(gain=1.0), FedBuff(), FedAsync(1.0)])
def test_fresh_answers_of_all_make_the_plain_mean(rules):
    """Under a synchronous pacer nothing is old; these are FedAvg with even weights."""
    us = [moved_by(f"p{i}", 0, float(i), 2.0 * i * i) for i in range(4)]
    want = FedAvg().apply(Model(0, ZERO), us).params
    assert digest(rules.apply(rules.init(ZERO), us).params) == digest(want)


# FedAsync: a mixture of models.


def test_async_mixes_models_as_in_the_paper():
    rules = FedAsync(gain=0.5, staleness="constant")
    state = rules.init(tree(8.0, 0.0))
    state = rules.apply(state, [moved_by("a", 0, 8.0, 4.0)])
    assert state.params["w"].tolist() == [12, 2]  # between 8, 0 and 16, 4
    state = rules.apply(state, [moved_by("b", 0, -8.0, 0.0)])
    assert state.params["w"].tolist() == [6, 1]  # between 12, 2 and 0, 0


def test_async_without_the_old_model_adds_the_difference():
    rules = FedAsync(gain=0.5, staleness="constant", history=0)
    state = rules.apply(rules.init(tree(8.0, 0.0)), [moved_by("a", 0, 8.0, 4.0)])
    state = rules.apply(state, [moved_by("b", 0, -8.0, 0.0)])
    assert state.params["w"].tolist() == [8, 2]
    assert state.past == {}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
@settings(deadline=None, max_examples=15)
def test_async_mixes_exactly_for_any_ages_within_its_history(ages):
    """Against a loop that keeps every model and says what the paper says."""
    rules = FedAsync(gain=0.6, a=0.5, history=6)
    state = rules.init(ZERO)
    models = [torch.zeros(2, dtype=torch.float64)]
    for t, age in enumerate(min(age, t) for t, age in enumerate(ages)):
        step = torch.tensor([t - 3.0, 0.5 * age])
        state = rules.apply(state, [Update("p", t - age, {"w": step}, 1)])
        alpha, new = 0.6 * (1 + age) ** -0.5, models[t - age] + step
        models.append((1 - alpha) * models[t] + alpha * new)
        assert len(state.past) <= 6
    got = state.params["w"].double()
    assert torch.allclose(got, models[-1], rtol=1e-5, atol=1e-5)


def test_async_takes_several_at_once_as_the_mean_of_each_alone():
    rules, state = FedAsync(gain=0.5), FedAsync().init(ZERO)
    us = [moved_by("a", 0, 8.0, 0.0), moved_by("b", 0, 0.0, 4.0)]
    alone = [rules.apply(state, [u]).params["w"] for u in us]
    both = rules.apply(state, us).params["w"]
    assert both.tolist() == ((alone[0] + alone[1]) / 2).tolist()


def test_async_asks_for_the_pull_that_the_paper_regularises_with():
    assert FedAsync().work(FedAsync().init(ZERO), "a").hints == {"mu": 0.005}
    assert FedAsync(mu=0.0).work(FedAsync().init(ZERO), "a").hints == {}


# In the programs.


@pytest.mark.parametrize(
    ("name", "pacer"),
    [
        ("fedcompass", Compass()),
        ("fedasync", Buffered(size=1)),
        ("fedbuff", Buffered(size=5)),
    ],
)
def test_each_comes_with_its_pacer(name, pacer):
    assert configured(from_flags([f"strategy={name}"])).pacer == pacer
    flags = [f"strategy={name}", "pacer=synchronous", "pacer.cohort=3"]
    assert configured(from_flags(flags)).pacer == Synchronous(cohort=3)


def test_compass_learns_how_many_clients_there_are():
    flags = ["strategy=fedcompass", "run.clients=7", "pacer.min_steps=5"]
    found = configured(from_flags(flags))
    assert (found.strategy.clients, found.pacer) == (7, Compass(min_steps=5))


@pytest.mark.parametrize(
    ("rules", "pacer"),
    [
        (FedCompass(clients=3), Compass(2, 8)),
        (FedAsync(steps=3), Buffered(size=1)),
        (FedBuff(steps=3), Buffered(size=2)),
    ],
)
def test_it_learns_from_peers_of_different_speeds(rules, pacer, start):
    speeds = {"peer0": 0.1, "peer1": 0.5, "peer2": 3.1}
    link = VirtualLink(TRAINER, TASKS, speeds)
    state = coordinate(rules, pacer, link, start, rounds=60)
    assert error_of(state.params) < 0.1 * error_of(start)


def test_at_one_speed_compass_is_synchronous(start):
    """From the first whole group on: all answers, none old, the most batches."""
    folds = []
    link = VirtualLink(TRAINER, TASKS, dict.fromkeys(TASKS, 0.1))
    rules = Rules(FedCompass(clients=3), Compass(2, 8))
    Coordinator(rules, link, watch=folds.append).run(start, 7)
    made = [f for f in folds if f.folded]
    ages = [[f.state.version - 1 - u.version for u in f.folded] for f in made]
    assert ages == [[0], [1], [2], [2, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert {u.metrics["steps"] for f in made for u in f.folded} == {8}
    assert link.now_s() == pytest.approx(5 * 8 * 0.1)


def error_of(params):
    target = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    return float((params["weight"] - target).square().sum())
