"""SCAFFOLD with forgetful peers equals the paper's, where peers keep their control."""

from dataclasses import dataclass, replace

import pytest
import torch

from clients.trainers.schedule import Cosine
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work
from strategies.fedavg import FedAvg
from strategies.scaffold import Scaffold

RULES = Scaffold(local_lr=0.1, steps=5)


@dataclass(frozen=True)
class Bowl:
    """Loss curve / 2 * (x - low)²: drift is strong where curves differ."""

    curve: float
    low: float

    def gradient(self, x):
        return self.curve * (x - self.low)


BOWLS = {"a": Bowl(1.0, 0.0), "b": Bowl(9.0, 1.0), "c": Bowl(2.0, -3.0)}
BEST = (0.0 + 9.0 - 6.0) / 12.0  # where the sum of the gradients is 0


def answer(bowl: Bowl, work: Work, peer: str) -> Update:
    x = work.params["w"].double()
    shift = work.aux["w"] if work.aux else 0.0
    for _ in range(work.steps):
        x = x - 0.1 * (bowl.gradient(x) + shift)
    moved = {"w": (x - work.params["w"]).float()}
    return Update(peer, work.version, moved, 1, {"steps": float(work.steps)})


def run(rules, rounds, start=4.0):
    state = rules.init({"w": torch.tensor([start])})
    for _ in range(rounds):
        updates = [answer(b, rules.work(state, p), p) for p, b in BOWLS.items()]
        state = rules.apply(state, updates)
    return state


def as_in_the_paper(rounds, start=4.0, lr=0.1, steps=5):
    """Algorithm 1, option II, written down with each peer keeping its own c_i."""
    x, c, own = start, 0.0, dict.fromkeys(BOWLS, 0.0)
    for _ in range(rounds):
        ends, fresh = {}, {}
        for peer, bowl in BOWLS.items():
            y = x
            for _ in range(steps):
                y = y - lr * (bowl.gradient(y) - own[peer] + c)
            ends[peer] = y
            fresh[peer] = own[peer] - c + (x - y) / (steps * lr)
        x += sum(y - x for y in ends.values()) / len(BOWLS)
        c += sum(fresh[p] - own[p] for p in BOWLS) / len(BOWLS)
        own = fresh
    return x, own


@pytest.mark.parametrize("rounds", [1, 2, 3, 10])
def test_equals_the_paper_when_all_take_part(rounds):
    state, (x, own) = run(RULES, rounds), as_in_the_paper(rounds)
    torch.testing.assert_close(state.params["w"], torch.tensor([x]), atol=1e-5, rtol=0)
    for peer, control in own.items():
        got = state.controls[peer]["w"]
        torch.testing.assert_close(got, torch.tensor([control]), atol=1e-4, rtol=0)


def test_finds_the_best_point_where_fedavg_drifts_away():
    assert abs(run(RULES, 200).params["w"].item() - BEST) < 1e-4
    assert abs(run(FedAvg(steps=5), 200).params["w"].item() - BEST) > 0.1


def test_control_is_the_mean_gradient_by_hand():
    """One peer, x = 4, slope 1 * (x - 0), two steps of 0.1: 4, 3.6, 3.24."""
    rules = Scaffold(local_lr=0.1, steps=2)
    state = rules.init({"w": torch.tensor([4.0])})
    state = rules.apply(state, [answer(BOWLS["a"], rules.work(state, "a"), "a")])
    assert state.params["w"].item() == pytest.approx(3.24)
    assert state.controls["a"]["w"].item() == pytest.approx((4.0 + 3.6) / 2)
    assert state.total["w"].item() == pytest.approx(3.8)


def test_newcomers_get_no_correction_and_the_others_sum_to_none():
    state = run(RULES, 3)
    assert rules_aux(state, "new") == {}
    drift = sum(rules_aux(state, p)["w"] for p in BOWLS)
    assert abs(drift.item()) < 1e-4


def rules_aux(state, peer):
    return RULES.work(state, peer).aux


def test_total_stays_the_sum_of_the_controls_when_few_take_part():
    state = RULES.init({"w": torch.tensor([4.0])})
    for peer in "abcabbca":
        state = RULES.apply(state, [answer(BOWLS[peer], RULES.work(state, peer), peer)])
    total = sum(control["w"] for control in state.controls.values())
    torch.testing.assert_close(state.total["w"], total, atol=1e-4, rtol=0)


def test_step_size_goes_out_with_the_work():
    state = RULES.init({"w": torch.zeros(1)})
    assert RULES.work(state, "a").hints == {"lr": 0.1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: replace(u, version=u.version - 1),
        lambda u: replace(u, metrics={"steps": 0.0}),
        lambda u: replace(u, metrics={"steps": float("nan")}),
        lambda u: replace(u, metrics={"steps": float("inf")}),
    ],
    ids=["stale", "no steps", "nan steps", "endless steps"],
)
def test_an_answer_that_tells_no_gradient_moves_the_model_only(spoil):
    state = run(RULES, 2)
    update = spoil(answer(BOWLS["a"], RULES.work(state, "a"), "a"))
    after = RULES.apply(state, [update])
    assert not torch.equal(after.params["w"], state.params["w"])
    assert after.controls == state.controls
    assert torch.equal(after.total["w"], state.total["w"])


def test_steps_not_reported_are_those_asked_for():
    state = RULES.init({"w": torch.tensor([4.0])})
    told = answer(BOWLS["a"], RULES.work(state, "a"), "a")
    silent = replace(told, metrics={})
    a, b = RULES.apply(state, [told]), RULES.apply(state, [silent])
    assert torch.equal(a.controls["a"]["w"], b.controls["a"]["w"])


def test_running_statistics_have_no_control():
    tree = {"w": torch.zeros(2), "norm.running_mean": torch.zeros(2)}
    state = RULES.init(tree)
    moved = {k: torch.ones(2) for k in tree}
    state = RULES.apply(state, [Update("a", 0, moved, 1, {"steps": 5.0})])
    assert set(RULES.work(state, "a").aux) == {"w"}
    assert state.params["norm.running_mean"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("local_lr", [0.0, -1.0, float("nan")])
def test_impossible_step_size_is_refused(local_lr):
    with pytest.raises(ConfigError, match="local_lr"):
        Scaffold(local_lr=local_lr)


@pytest.mark.parametrize("trainer", [SGD(lr=0.9), SGD(lr=0.3, schedule=Cosine())])
def test_the_trainer_obeys_whatever_its_own_step_size(trainer, start, tasks):
    """Else the controls would not be the peers' gradients, and nobody would know."""
    rules = Scaffold(local_lr=0.05, steps=4)
    got = run_rounds(rules, trainer, tasks, start, rounds=3)
    want = run_rounds(rules, SGD(lr=0.05), tasks, start, rounds=3)
    assert digest(got.params) == digest(want.params)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf"), "fast"])
def test_a_trainer_refuses_an_impossible_step_size(lr, start, tasks):
    with pytest.raises(ProtocolError, match="hint lr"):
        SGD()(tasks["peer0"], Work(0, start, steps=1, hints={"lr": lr}), "peer0")


def test_controls_are_the_gradients_that_the_trainer_saw(start, tasks):
    """One step each: c_i is the plain gradient at the model, correction or not."""
    rules = Scaffold(local_lr=0.05, steps=1)
    before = run_rounds(rules, SGD(), tasks, start, rounds=2)
    after = run_rounds(rules, SGD(), tasks, start, rounds=3)
    for peer, task in tasks.items():
        x, y = next(task.batches(0))
        w = before.params["weight"]
        gradient = 2 / len(x) * (x @ w.T - y).T @ x
        got = after.controls[peer]["weight"]
        torch.testing.assert_close(got, gradient, atol=1e-4, rtol=1e-4)
