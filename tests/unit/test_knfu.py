"""KnFu: fusion by hand, peers of different form, and what comes out on digits."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from clients.tasks import load_task
from clients.trainers.fusion import Lesson, own_model, taught
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.strategy import Update, Work
from fedcore.task import params_of
from sims.data.federate import federate
from sims.data.own_rows import own_tests
from sims.data.partition import DirichletLabels
from sims.line import Line
from sims.runs.personal import personal
from strategies.fedavg import FedAvg
from strategies.knfu import KnFu, fused, shares, weights
from tests.cases import Classed, rules_of

RULES = rules_of("knfu", steps=3)
TRAINER = SGD(lr=0.05)


def test_weights_by_hand():
    """KL(own || other) of (1/2, 1/2) and (1/4, 3/4) is ln(4/3) / 2."""
    estimates = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    share = math.exp(-2.0 * math.log(4 / 3) / 2)  # 3/4
    assert weights(estimates, 0, beta=2.0) == pytest.approx(
        [1 / (1 + share), share / (1 + share)]
    )
    assert weights(estimates, 0, beta=0.0) == [0.5, 0.5]
    assert weights(estimates, 1, beta=1e4)[1] == pytest.approx(1.0)


def test_a_class_never_seen_makes_far_not_infinite():
    apart = weights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0, beta=0.1)
    assert apart == pytest.approx([0.8, 0.2], abs=0.02)  # KL is 6 ln 10 = 13.8


def test_fused_targets_are_the_weighted_mean():
    answers = {
        "a": {
            "knowledge": torch.tensor([[1.0, 0.0]]),
            "estimate": torch.tensor([0.5, 0.5]),
        },
        "b": {
            "knowledge": torch.tensor([[0.0, 1.0]]),
            "estimate": torch.tensor([0.25, 0.75]),
        },
    }
    assert fused(answers, "a", 0.0).tolist() == [[0.5, 0.5]]
    assert fused(answers, "a", 2.0)[0].tolist() == pytest.approx([4 / 7, 3 / 7])


def test_whatever_a_peer_sends_becomes_shares():
    told = shares(torch.tensor([[1.0, 3.0], [-5.0, 2.0], [0.0, 0.0], [-1.0, -1.0]]))
    assert told.tolist() == [[0.25, 0.75], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]


def test_newcomers_get_the_start_and_the_others_their_targets():
    start = params_of(Classed(0).model())
    state = RULES.init(start)
    first = RULES.work(state, "a")
    assert (first.params, first.aux) == (start, {})
    update = TRAINER(Classed(0), first, "a")
    after = RULES.apply(state, [update])
    work = RULES.work(after, "a")
    assert work.params == {}
    assert torch.allclose(work.aux["targets"], update.payload["knowledge"])
    assert RULES.work(after, "b").params is start
    assert after.params is start


def test_an_answer_is_shares_and_the_model_stays():
    start = RULES.init(params_of(Classed(0).model()))
    update = TRAINER(Classed(0), RULES.work(start, "a"), "a")
    assert update.payload["knowledge"].shape == (6, 3)
    assert torch.allclose(update.payload["knowledge"].sum(1), torch.ones(6))
    assert update.payload["estimate"].sum().item() == pytest.approx(1.0)
    assert update.keep.keys() == params_of(Classed(0).model()).keys()
    assert update.metrics["steps"] == 3.0


def net(width):
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3))


@dataclass(frozen=True)
class Wide(Classed):
    """A peer with a model of its own form; no running statistics."""

    width: int = 9

    def model(self):
        torch.manual_seed(self.width)
        return net(self.width)


def rounds(tasks, rules, count, start):
    """Return the state and what peers keep, after ``count`` rounds."""
    state, kept = rules.init(start), {}
    for _ in range(count):
        updates = []
        for peer, task in tasks.items():
            work = replace(rules.work(state, peer), kept=kept.get(peer, {}))
            update = TRAINER(task, work, peer)
            kept[peer] = update.keep or work.kept
            updates.append(replace(update, keep={}))
        state = rules.apply(state, updates)
    return state, kept


def test_peers_with_models_of_different_form_learn_from_each_other():
    tasks = {"a": Classed(0), "b": Wide(1), "c": Wide(2, width=4)}
    state, kept = rounds(tasks, RULES, 3, params_of(tasks["a"].model()))
    assert [kept[p]["0.weight"].shape[0] for p in tasks] == [5, 9, 4]
    alone, mine = rounds(tasks, replace(RULES, distill=0), 3, state.params)
    assert digest(mine["b"]) != digest(kept["b"])
    assert state.version == alone.version == 3


def test_what_fits_badly_is_replaced_by_the_tasks_own_start():
    task = Wide(0)
    made, other = params_of(task.model()), params_of(Classed(0).model())
    assert digest(own_model(task, Work(0, other))) == digest(made)
    moved = {k: t + 1 for k, t in made.items()}
    assert digest(own_model(task, Work(0, moved))) == digest(moved)
    assert digest(own_model(task, Work(0, made, kept=moved))) == digest(moved)


def test_distillation_moves_towards_the_targets():
    task, public = Wide(0), Classed(0).public(6)
    target = torch.eye(3)[[0, 0, 0, 2, 2, 2]]
    hints = {"distill": 200, "classes": 3}
    work = Work(0, params_of(task.model()), aux={"targets": target}, hints=hints)
    method, rule = SGD(lr=0.5).method(), SGD(lr=0.5).rule(work)
    learnt = taught(task, work, public, "a", method, rule)
    model = task.model()
    model.load_state_dict(learnt)
    assert (model(public).softmax(1) - target).abs().max() < 0.1
    assert rule.kept == []


def test_a_lesson_shows_every_input_once_a_pass():
    lesson = Lesson(Classed(0), torch.arange(70.0).view(-1, 1), torch.eye(70))
    batches = lesson.batches(1)
    passed = [next(batches) for _ in range(lesson.epoch_steps)]
    assert [len(x) for x, _ in passed] == [32, 32, 6]
    seen = [int(v) for x, _ in passed for v in x.flatten()]
    assert sorted(seen) == list(range(70))
    assert all(torch.equal(y.argmax(1), x[:, 0].long()) for x, y in passed)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("beta", -1.0),
        ("beta", math.inf),
        ("public", 0),
        ("classes", 1),
        ("distill", -1),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        KnFu(**{setting: value})


def test_a_task_that_does_not_fit_is_told_what_to_set():
    def ask(task, rules):
        return TRAINER(task, rules.work(rules.init(params_of(task.model())), "a"), "a")

    with pytest.raises(ConfigError, match=r"set strategy\.classes=3"):
        ask(Classed(0), KnFu(public=6))
    with pytest.raises(ConfigError, match=r"Line has no public\(\)"):
        ask(Line(seed=0), RULES)


def test_targets_of_a_wrong_shape_are_refused():
    work = RULES.work(RULES.init(params_of(Classed(0).model())), "a")
    odd = replace(work, aux={"targets": torch.zeros(5, 3)})
    with pytest.raises(ProtocolError, match="targets have shape"):
        TRAINER(Classed(0), odd, "a")
    with pytest.raises(ProtocolError, match="hint public"):
        TRAINER(Classed(0), replace(work, hints={**work.hints, "public": 0}), "a")


def test_liars_cannot_break_a_round():
    start = params_of(Classed(0).model())
    wild = {"knowledge": torch.full((6, 3), -1e3), "estimate": torch.zeros(3)}
    state = RULES.apply(RULES.init(start), [Update("a", 0, wild, 1)])
    assert torch.allclose(
        RULES.work(state, "a").aux["targets"], torch.full((6, 3), 1 / 3)
    )


def accuracies(rules, count):
    """Return the mean accuracy of peers on data like theirs, and on all."""
    data = load_task("digits", {"model": "linear"})
    tasks = dict(federate(data, DirichletLabels(alpha=1.0), 5, seed=0))
    state, kept = rounds(tasks, rules, count, data.start(0))
    own = own_tests(data, tasks, seed=0)
    return [
        sum(f["accuracy"] for f in personal(rules, state, t, kept).values()) / len(t)
        for t in (own, tasks)
    ]


@pytest.mark.slow
def test_fusion_lies_between_learning_alone_and_the_mean_of_all():
    """On data that all have, the more they share the better; no model leaves them."""
    alone = accuracies(KnFu(distill=0), 10)
    near = accuracies(KnFu(beta=10.0), 10)
    mean = accuracies(KnFu(beta=0.0, distill=3), 10)
    assert alone[1] - 0.02 < near[1] < mean[1]
    assert mean[1] > alone[1] + 0.05
    assert accuracies(FedAvg(), 10)[1] > mean[1], "a common model knows more"
