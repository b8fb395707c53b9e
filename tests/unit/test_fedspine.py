"""FedSpine: rewards and masks by hand, adapters against autograd, exact sums."""

from dataclasses import replace
from math import nan

import pytest
import torch

from clients.tasks import load_task
from clients.trainers.lowrank import Adapter
from clients.trainers.sgd import SGD
from fedcore.desk import Arrivals, Idle, Rules
from fedcore.errors import ConfigError, ProtocolError
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work
from fedcore.task import load, params_of
from sims.data.federate import federate
from sims.data.partition import IID
from strategies.bandit import Record
from strategies.fedspine import Arm, FedSpine
from tests.cases import Classed

TRAINER = SGD(lr=0.1)
TASK = Classed(1)
MATRICES = {"0.weight": (5, 3), "3.weight": (3, 5)}


def start():
    params = params_of(TASK.model())
    return {
        name: torch.linspace(-1, 1, t.numel()).view(t.shape).cos()
        for name, t in params.items()
    }


def asked(rank, ratio, steps=4, kept=None):
    hints = {"do": "lowrank", "rank": rank, "ratio": ratio, "scale": rank**-0.5}
    hints["arm"] = 5
    return Work(0, start(), steps, hints=hints, kept=kept or {})


def test_the_arms_are_a_grid():
    rules = FedSpine(max_rank=8, ranks=3, max_ratio=0.5, ratios=3)
    assert rules.arms == tuple(Arm(r, p) for r in (8, 4, 2) for p in (0.0, 0.25, 0.5))
    assert FedSpine(max_rank=3, ranks=1, ratios=1).arms == (Arm(3, 0.5),)


def answers(rules, state):
    return [TRAINER(Classed(i), rules.work(state, p), p) for i, p in enumerate("abc")]


def product_of(update, name):
    return update.payload[f"{name}:B"] @ update.payload[f"{name}:A"]


def update(peer, state, rules, **metrics):
    like = rules.expects(rules.work(state, peer))
    payload = {name: torch.zeros_like(t) for name, t in like.items()}
    return Update(peer, state.version, payload, 1, metrics)


def test_the_reward_by_hand():
    """Loss 0.2, importance 0.9, arm 5 prunes 0.5; the median takes 4 s, this one 12."""
    rules = FedSpine(
        loss_weight=1, importance_weight=0.5, prune_weight=0.25, time_weight=0.25
    )
    state = rules.init(start())
    told = {"drop": 0.2, "kept": 0.9, "arm": 5.0}
    times = {"a": 12.0, "b": 4.0, "c": 1.0}
    updates = [update(p, state, rules, took_s=t, **told) for p, t in times.items()]
    after = rules.apply(state, updates)
    rest = 0.2 + 0.5 * 0.9 + 0.25 * 0.5
    for peer, share in {"a": 4 / 16, "b": 0.5, "c": 4 / 5}.items():
        record = after.records[peer]
        assert record.pulls == (0, 0, 0, 0, 0, 1, 0, 0, 0)
        assert record.sums[5] == pytest.approx((rest + 0.25 * share) / 2)


def test_without_a_clock_everybody_is_as_quick_and_losses_may_rise():
    rules = FedSpine(loss_weight=1, importance_weight=0, prune_weight=0, time_weight=1)
    state = rules.init(start())
    told = update("a", state, rules, drop=-0.7, kept=1.0, arm=0.0)
    assert rules.apply(state, [told]).records["a"].sums[0] == 0.25


@pytest.mark.parametrize("arm", [-1.0, 9.0, 0.5, 1e300])
def test_an_arm_that_does_not_exist_teaches_nothing(arm):
    rules = FedSpine()
    state = rules.init(start())
    told = update("a", state, rules, drop=1.0, kept=1.0, arm=arm)
    assert rules.apply(state, [told]).records["a"] == rules.bandit.new()


def test_work_asks_for_the_arm_that_earns_most():
    rules = FedSpine(explore=0.0)
    record = Record((2,) * 9, (0.1,) * 4 + (1.8,) + (0.2,) * 4)
    state = replace(rules.init(start()), records={"a": record})
    hints = rules.work(state, "a").hints
    assert (hints["arm"], hints["rank"], hints["ratio"]) == (4, 4, 0.25)


def test_the_factors_get_the_gradients_of_autograd():
    g = torch.Generator().manual_seed(0)
    weight, start_, up, down, x = (
        torch.randn(*s, generator=g) for s in [(4, 3), (4, 3), (4, 2), (2, 3), (7, 3)]
    )
    left = torch.tensor([1.0, 0.0, 1.0])
    adapter = Adapter(weight, start_, left, up, down)
    adapter.put()
    whole = weight.clone().requires_grad_()
    (whole_grad,) = torch.autograd.grad((x @ whole.T).tanh().sum(), whole)
    b, a = up.clone().requires_grad_(), down.clone().requires_grad_()
    pruned = (start_ + b @ a) * left
    want = torch.autograd.grad((x @ pruned.T).tanh().sum(), (b, a))
    for got, expected in zip(adapter.back(whole_grad), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("rank", "ratio"), [(1, 0.0), (2, 0.5), (8, 0.25)])
def test_an_answer_has_the_form_asked_for_and_leaves_pruned_columns(rank, ratio):
    work = asked(rank, ratio)
    told = TRAINER(TASK, work, "a")
    like = {name: t.shape for name, t in FedSpine().expects(work).items()}
    assert {name: t.shape for name, t in told.payload.items()} == like
    for name, (_, inputs) in MATRICES.items():
        still = (product_of(told, name) == 0).all(0)
        assert int(still.sum()) == int(ratio * inputs)
    assert told.metrics["arm"] == 5.0
    assert (told.metrics["kept"] == 1.0) == (ratio == 0.0)
    assert told.payload["3.bias"].any()  # no matrix: trained as it is


def test_the_peer_prunes_what_it_remembers_as_least_important():
    """Half of the score is of this round; a memory this strong decides alone."""
    name = "importance:0.weight"
    fresh = TRAINER(TASK, asked(2, 0.34), "a").keep[name]
    for dull in range(3):
        old = torch.tensor([0.0, 9.0, 9.0]).roll(dull)
        told = TRAINER(TASK, asked(2, 0.34, kept={name: old}), "a")
        still = (product_of(told, "0.weight") == 0).all(0)
        assert still.tolist() == [i == dull for i in range(3)]
        torch.testing.assert_close(told.keep[name], 0.5 * fresh + 0.5 * old)


def test_one_step_moves_a_weight_on_average_over_draws_as_plain_sgd():
    """Signs over √r: E[AᵀA] = 1; here over 100 peers of one task."""

    class One(Classed):
        def batches(self, seed):
            return super().batches(0)  # the same batch for all

    plain = TRAINER(One(1), Work(0, start(), 1), "a").payload["3.weight"]
    work = asked(2, 0.0, steps=1)
    told = [TRAINER(One(1), work, f"p{i}") for i in range(100)]
    mean = sum(product_of(u, "3.weight") for u in told) / 100
    near = 0.3 * float(plain.abs().max())
    torch.testing.assert_close(mean, plain, atol=near, rtol=0)


def test_the_server_adds_the_mean_of_the_products():
    rules = FedSpine(server_lr=0.5, steps=2)
    state = rules.init(start())
    updates = answers(rules, state)
    after = rules.apply(state, updates)
    for name in MATRICES:
        change = sum(product_of(u, name) for u in updates) / 3
        want = state.params[name] + 0.5 * change
        torch.testing.assert_close(after.params[name], want)
    ranks = {u.payload["3.weight:B"].shape[1] for u in updates}
    assert len(ranks) > 1  # or else this would say little


def test_truncation_limits_the_rank_of_a_round():
    rules = FedSpine(truncate=1, steps=2)
    state = rules.init(start())
    after = rules.apply(state, answers(rules, state))
    for name in MATRICES:
        change = (after.params[name] - state.params[name]).double()
        assert torch.linalg.matrix_rank(change, rtol=1e-4) == 1


def test_a_round_of_refused_products_leaves_the_model():
    rules = FedSpine()
    state = rules.init(start())
    bad = update("a", state, rules)
    bad = replace(bad, payload={n: t + 900.0 for n, t in bad.payload.items()})
    after = rules.apply(state, [bad])
    assert (after.version, digest(after.params)) == (1, digest(state.params))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"rank": 1.5},
        {"ratio": 1.0},
        {"ratio": nan},
        {"ratio": "x"},
        {"scale": 0.0},
    ],
    ids=str,
)
def test_a_peer_refuses_an_impossible_arm(wrong):
    work = asked(2, 0.5)
    work = replace(work, hints={**work.hints, **wrong})
    with pytest.raises(ProtocolError, match=next(iter(wrong))):
        TRAINER(TASK, work, "a")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_rank": 2, "ranks": 3}, "raise max_rank to 4"),
        ({"max_ratio": 1.0}, "max_ratio"),
        ({"loss_weight": -1.0}, "loss_weight"),
        ({"loss_weight": 0, "importance_weight": 0, "prune_weight": 0}, "not all 0"),
        ({"explore": -0.1}, "explore"),
        ({"truncate": -1}, "truncate"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        FedSpine(**wrong)


def test_learns_digits():
    dataset = load_task("digits")
    tasks = federate(dataset, IID(), clients=4, seed=0)
    rules = FedSpine(max_ratio=0.25)
    state = run_rounds(rules, SGD(lr=0.3), tasks, dataset.start(0), rounds=8)
    model = load(dataset.new_model(), state.params)
    assert dataset.whole().evaluate(model)["accuracy"] > 0.8


def test_factors_whose_product_is_too_large_are_refused_by_name():
    rules = FedSpine()
    desk = Rules(rules, Synchronous(cohort=2)).begin({"w": torch.zeros(4, 4)})
    idle = Idle(("a", "b"), 0.0)
    desk, out = Rules(rules, Synchronous(cohort=2)).step_out(desk, idle)
    answers = [
        Update(peer, 0, {k: torch.full_like(t, size) for k, t in form.items()}, 1)
        for (peer, work), size in zip(out, (0.1, 100.0), strict=True)
        for form in [rules.expects(work)]
    ]
    heard = Rules(rules, Synchronous(cohort=2)).judge(desk, Arrivals(answers), 1.0)
    assert [u.peer for u in heard.updates] == ["a"]
    (refusal,) = heard.refused
    assert (refusal.peer, refusal.kind, refusal.ends_work) == ("b", "unfit", True)
    assert refusal.reason == "the factors of w make 2e+04, above 1000"
