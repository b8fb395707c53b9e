"""FedAMD: anchors renew gradients, miners walk; by hand, and as in the paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest
import torch
from torch import nn

from clients.tasks import load_task
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Work
from fedcore.task import load, params_of
from sims.data.federate import federate
from sims.data.partition import IID
from strategies.fedamd import Anchored, FedAMD
from tests.e2e.normed import Normed

TRAINER = SGD(lr=0.1)


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))


@dataclass(frozen=True)
class Bowl:
    """Loss curve / 2 * (x - low)², the mean over examples with their own lows."""

    curve: float
    lows: tuple[float, ...]
    size: int = 1

    @property
    def examples(self) -> int:
        return len(self.lows)

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.lows) // self.size)

    def model(self) -> nn.Module:
        return Point()

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        lows = torch.tensor(self.lows, dtype=torch.float64)
        return cycle(lows.split(self.size))

    def loss(self, model, lows):
        return (self.curve / 2 * (model.x - lows).square()).mean()

    def evaluate(self, model):
        return {"loss": 0.0, "examples": 1.0}

    def gradient(self, x):
        return self.curve * (x - sum(self.lows) / len(self.lows))


BOWLS = {"a": Bowl(1.0, (0.0,)), "b": Bowl(3.0, (1.0,)), "c": Bowl(2.0, (-3.0,))}
START = {"x": torch.tensor([4.0], dtype=torch.float64)}


def fold(rules, state, peers):
    updates = [TRAINER(BOWLS[p], rules.work(state, p), p) for p in peers]
    return rules.apply(state, updates)


def test_two_rounds_by_hand():
    """Slopes 4 and 9 at x = 4. Miners: v = 6.5, then v += curve * (3.35 - 4)."""
    rules = FedAMD(steps=2)
    state = fold(rules, rules.init(START), "ab")
    assert state.params["x"].item() == 4.0
    assert [state.gradients[p]["x"].item() for p in "ab"] == [4.0, 9.0]
    a = 4 - 0.1 * 6.5 - 0.1 * (6.5 - 0.65 * 1)
    b = 4 - 0.1 * 6.5 - 0.1 * (6.5 - 0.65 * 3)
    state = fold(rules, state, "ab")
    assert state.params["x"].item() == pytest.approx((a + b) / 2)


def as_in_the_paper(rules, cohorts, steps, rate=0.1):
    """Algorithm 1 with plain numbers; who anchors is asked of ``rules``."""
    x, v = 4.0, {}
    for version, cohort in enumerate(cohorts):
        state = Anchored(version, START, START, dict.fromkeys(v, START))
        g = sum(v.values()) / len(v) if v else 0.0
        moves = []
        for peer in cohort:
            slope = BOWLS[peer].gradient
            if rules.anchors(state, peer):
                v[peer] = slope(x)
                continue
            now, before, u = x, x, g
            for _ in range(steps):
                u += slope(now) - slope(before)
                now, before = now - rate * u, now
            moves.append(x - now)
        if moves:
            x -= rules.server_lr * sum(moves) / len(moves)
    return x, v


@pytest.mark.parametrize(
    "rules",
    [
        FedAMD(steps=3),
        FedAMD(steps=3, every=3, server_lr=0.5),
        FedAMD(steps=3, rule="constant", anchor_share=0.4),
        FedAMD(steps=3, rule="optb", cohort=2, clients=3),
    ],
    ids=lambda rules: rules.rule,
)
def test_equals_the_paper_when_few_take_part(rules):
    cohorts = ["ab", "bc", "ac", "abc", "b", "ac", "ab", "bc", "abc"]
    state = rules.init(START)
    for cohort in cohorts:
        state = fold(rules, state, cohort)
    x, v = as_in_the_paper(rules, cohorts, steps=3)
    assert state.params["x"].item() == pytest.approx(x, abs=1e-5)
    for peer, slope in v.items():
        assert state.gradients[peer]["x"].item() == pytest.approx(slope, abs=1e-5)
    total = sum(t["x"].item() for t in state.gradients.values())
    assert state.total["x"].item() == pytest.approx(total, abs=1e-5)


def test_an_anchor_counts_batches_by_their_rows():
    """Lows 0, 0, 6 in batches of two: the slope is that of all three, 4 - 2."""
    rules, task = FedAMD(), Bowl(1.0, (0.0, 0.0, 6.0), size=2)
    state = rules.init(START)
    update = TRAINER(task, rules.work(state, "a"), "a")
    assert update.payload["gradient:x"].item() == pytest.approx(2.0)
    assert update.metrics["steps"] == 2.0


def test_an_anchor_makes_one_pass_and_a_miner_as_many_as_asked():
    rules = FedAMD(epochs=5)
    state = fold(rules, rules.init(START), "ab")
    anchor, miner = rules.work(state, "new"), rules.work(state, "a")
    assert (anchor.hints["do"], anchor.epochs) == ("anchor", 1)
    assert (miner.hints["do"], miner.epochs) == ("miner", 5)


def test_a_round_without_miners_leaves_the_model():
    rules = FedAMD(rule="constant", anchor_share=1.0, steps=1)
    state = fold(rules, rules.init(START), "ab")
    after = fold(rules, state, "ab")
    assert after.version == 2
    assert digest(after.params) == digest(START)


def test_newcomers_anchor_and_the_mean_is_over_those_heard():
    rules = FedAMD(rule="constant", anchor_share=0.0, steps=1)
    state = fold(rules, rules.init(START), "ab")
    assert rules.work(state, "c").hints["do"] == "anchor"
    assert rules.work(state, "a").aux["x"].item() == 6.5


def test_a_late_answer_says_what_it_is():
    """Both were asked before anybody was heard; the second comes after two folds."""
    rules = FedAMD(rule="constant", anchor_share=0.0, steps=1)
    state = rules.init(START)
    late = TRAINER(BOWLS["c"], rules.work(state, "c"), "c")
    state = fold(rules, fold(rules, state, "ab"), "ab")
    after = rules.apply(state, [late])
    assert digest(after.params) == digest(state.params)
    assert after.gradients["c"]["x"].item() == 14.0


def test_chances_follow_the_formulas():
    assert FedAMD(rule="constant", anchor_share=0.3).chance == 0.3
    optb = FedAMD(rule="optb", cohort=20, clients=100)
    assert optb.chance == pytest.approx(110**0.5 - 10)  # M/A = 5: 0.488
    optc = FedAMD(rule="optc", cohort=10, clients=100)
    assert optc.chance == pytest.approx((2 / 12) ** 0.1)


def test_the_draw_is_by_peer_and_version_and_hits_the_chance():
    rules = FedAMD(rule="constant", anchor_share=0.3)
    known = {f"p{i}": START for i in range(40)}
    hits = {
        (peer, version)
        for version in range(50)
        for peer in known
        if rules.anchors(Anchored(version, START, START, known), peer)
    }
    assert 0.26 < len(hits) / 2000 < 0.34
    per_round = {sum(v == version for _, v in hits) for version in range(50)}
    assert len(per_round) > 3  # not all at once


def test_running_statistics_stay_and_weights_move():
    tasks = {f"p{i}": Normed(seed=i) for i in range(3)}
    start = params_of(Normed(seed=0).model())
    state = run_rounds(FedAMD(steps=3), SGD(lr=0.05), tasks, start, rounds=4)
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(state.params[name], start[name])
        assert name not in state.total
    assert not torch.equal(state.params["0.weight"], start["0.weight"])


def test_the_trainer_limits_the_length_of_a_step():
    work = Work(0, START, 1, aux={"x": torch.tensor([50.0])}, hints={"do": "miner"})
    update = SGD(lr=0.1, clip_norm=2.0)(BOWLS["a"], work, "a")
    assert update.payload["x"].item() == pytest.approx(-0.2, rel=1e-5)


@pytest.mark.parametrize("aux", [{}, {"x": torch.zeros(3)}], ids=["none", "shape"])
def test_a_miner_needs_a_mean_gradient_that_fits(aux):
    work = Work(0, START, 1, aux=aux, hints={"do": "miner"})
    with pytest.raises(ProtocolError, match="mean gradient of 'x'"):
        TRAINER(BOWLS["a"], work, "a")


@pytest.mark.parametrize(
    "wrong", [{"anchor_share": 1.5}, {"every": 1}, {"cohort": -1}, {"server_lr": 0.0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FedAMD(**wrong)


@pytest.mark.slow
def test_learns_digits():
    dataset = load_task("digits")
    tasks = federate(dataset, IID(), clients=4, seed=0)
    rules = FedAMD(steps=8)
    state = run_rounds(rules, SGD(lr=0.3), tasks, dataset.start(0), rounds=10)
    model = load(dataset.new_model(), state.params)
    assert dataset.whole().evaluate(model)["accuracy"] > 0.8
