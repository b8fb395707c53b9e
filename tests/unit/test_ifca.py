"""Several models, and everybody at the one that fits."""

from dataclasses import replace

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.config import from_flags
from fedcore.errors import ConfigError
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, peer_name
from sims.line import Line
from sims.runs.config import configured
from sims.runs.personal import personal
from strategies.clustered.ifca import IFCA, shuffled

START = {"w": torch.tensor([1.0, 2.0]), "norm.running_var": torch.tensor([3.0, 4.0])}


def picking(peer, choice, move=1.0, examples=1):
    payload = {name: torch.full((2,), move) for name in START}
    metrics = {} if choice is None else {"choice": float(choice)}
    return Update(peer, 0, payload, examples, metrics)


def test_the_first_models_are_shuffles_of_the_one_given():
    start = {**START, "w": torch.arange(24.0).view(4, 6)}
    models = IFCA(clusters=3).init(start).models
    assert models[0] is start
    for model in models[1:]:
        assert model["w"].shape == (4, 6)
        assert sorted(model["w"].flatten().tolist()) == list(range(24))
        assert model["norm.running_var"].tolist() == [3.0, 4.0]
    assert len({tuple(m["w"].flatten().tolist()) for m in models}) == 3
    assert torch.equal(shuffled(start, 0, 1)["w"], models[1]["w"])


def test_a_model_moves_by_those_who_picked_it():
    rules = IFCA(clusters=3)
    state = rules.init(START)
    updates = [picking("a", 1), picking("b", 1, move=4.0, examples=2), picking("c", 0)]
    after = rules.apply(state, updates)
    moves = [
        float((new["w"] - old["w"])[0])
        for new, old in zip(after.models, state.models, strict=True)
    ]
    assert moves == [1.0, 3.0, 0.0]
    assert after.models[2] is state.models[2]
    assert after.member == {"a": 1, "b": 1, "c": 0}
    mean = (after.models[0]["w"].double() + 3 * after.models[1]["w"].double()) / 4
    assert torch.allclose(after.params["w"].double(), mean)


def test_a_peer_gets_its_own_model_first_and_the_others_beside_it():
    rules = IFCA(clusters=3)
    state = rules.apply(rules.init(START), [picking("a", 1)])
    work = rules.work(state, "a")
    assert work.hints == {"do": "choose", "choices": 3, "own": 1}
    assert work.params is state.models[1]
    beside = {k.partition("/")[0] for k in work.aux}
    assert beside == {"0", "2"}
    assert rules.work(state, "new").params is state.models[0]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_the_choice_is_a_models_number_whichever_came_first(last):
    """The peer's own weights are those of model 2: its loss is 0 there."""
    line, rules = Line(seed=0), IFCA(clusters=3, steps=1)
    right = {"weight": torch.tensor([[1.0, -2.0, 3.0, 0.5]])}
    state = rules.init(right)
    moved = replace(state, models=(state.models[1], state.models[2], right))
    work = rules.work(replace(moved, member={"a": last}), "a")
    update = SGD(lr=0.1)(line, work, "a")
    assert update.metrics["choice"] == 2.0
    assert float(update.payload["weight"].abs().max()) < 1e-6


@pytest.mark.parametrize("choice", [None, 3, -1, 0.5, float("nan")])
def test_a_choice_that_is_no_model_is_a_vote_for_none(choice):
    rules = IFCA(clusters=3)
    state = rules.init(START)
    after = rules.apply(state, [picking("a", choice)])
    assert after.models == state.models
    assert after.params is state.params
    assert (after.version, after.member) == (1, {})


def test_privacy_that_hides_the_choice_is_refused_before_training():
    """Or every vote would be for none, and no model ever move."""
    with pytest.raises(ConfigError, match=r"\(choice\).*privacy\.name=none"):
        configured(from_flags(["strategy=ifca", "privacy=local-gaussian"]))


def test_finds_two_camps_that_no_one_model_can_serve():
    """Lines of opposite slopes; one model for both can do no better than 0."""
    lines = {peer_name(i): Line(seed=i, sign=(-1.0) ** i) for i in range(6)}
    start = {"weight": torch.tensor([[0.3, -0.5, 0.8, 0.1]])}
    rules = IFCA(clusters=2, steps=3)
    state = run_rounds(rules, SGD(lr=0.1), lines, start, 15)
    groups = [state.member[peer] for peer in lines]
    assert groups in ([0, 1] * 3, [1, 0] * 3)
    figures = personal(rules, state, lines)
    assert max(f["loss"] for f in figures.values()) < 0.01
