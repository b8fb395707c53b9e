"""KAFAL: who gets a label, that no other label is read, and what labels are worth."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from clients.tasks import load_task
from clients.tasks.dataset import Dataset, Shard
from clients.tasks.models import mlp
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.task import load, params_of
from sims.data.federate import federate
from sims.data.partition import IID
from sims.line import Line
from strategies.kafal import Kafal
from tests.cases import Classed, rules_of

RULES = rules_of("kafal", steps=3)
TRAINER = SGD(lr=0.05)
CLASSED = Classed(0)


def start(task=CLASSED):
    g = torch.Generator().manual_seed(0)
    like = params_of(task.model())
    return {k: 0.5 * torch.randn(t.shape, generator=g).abs() for k, t in like.items()}


def trained(rules, task=CLASSED, params=None, kept=None):
    """Return the answer to a first round of training."""
    work = rules.work(rules.init(params or start()), "a")
    return TRAINER(task, replace(work, kept=kept or {}), "a")


def asked(rules, task, kept, params=None, number=0):
    """Return the answer to a round of choosing; ``number`` were before it."""
    first = params or start()
    state = replace(rules.init(first), version=rules.cycle + number * (rules.cycle + 1))
    return TRAINER(task, replace(rules.work(state, "a"), kept=kept), "a")


def test_rounds_of_training_and_choosing_take_turns():
    rules = Kafal(cycle=2)
    duties = [
        rules.work(replace(rules.init({}), version=v), "a").hints["do"]
        for v in range(7)
    ]
    assert [d.removeprefix("kafal-") for d in duties] == [
        "train", "train", "query", "train", "train", "query", "train",
    ]  # fmt: skip


@pytest.mark.parametrize(("restart", "want"), [(False, "bkk-kkk-"), (True, "bkk-bkk-")])
def test_advice_waits_for_a_model_that_knows_something(restart, want):
    """b: balanced softmax alone, k: KCFU, with the server's advice."""
    rules = Kafal(cycle=3, restart=restart)
    said = [
        rules.work(replace(rules.init({}), version=v), "a").hints.get("loss", "-")[0]
        for v in range(8)
    ]
    assert "".join(said) == want


def test_the_first_labels_are_drawn_and_only_they_count():
    update = trained(RULES)
    labelled = update.keep["labelled"]
    assert len(set(labelled.tolist())) == 8 == update.examples
    assert torch.equal(labelled, labelled.sort().values)
    assert update.payload.keys() == start().keys()
    other = TRAINER(CLASSED, RULES.work(RULES.init(start()), "b"), "b")
    assert not torch.equal(other.keep["labelled"], labelled)


def test_choosing_adds_labels_and_tells_how_many():
    kept = trained(RULES).keep
    update = asked(RULES, CLASSED, kept)
    assert update.payload["picked"].tolist() == [8.0]
    assert update.metrics == {"labelled": 16.0, "picked": 8.0}
    assert update.examples == 16
    after = set(update.keep["labelled"].tolist())
    assert set(kept["labelled"].tolist()) < after
    assert len(after) == 16
    again = asked(RULES, CLASSED, update.keep, number=1)
    assert again.payload["picked"].tolist() == [8.0]
    done = asked(RULES, CLASSED, again.keep, number=2)
    assert done.payload["picked"].tolist() == [0.0]
    assert done.keep["labelled"].tolist() == list(range(24))


def test_all_labelled_trains_without_advice():
    rules = replace(RULES, labelled=1.0)
    state = replace(rules.init(start()), version=2)
    update = TRAINER(CLASSED, rules.work(state, "a"), "a")
    assert update.examples == 24


def test_choosing_leaves_the_model_and_counts():
    state = replace(RULES.init(start()), version=1)
    update = asked(RULES, CLASSED, {})
    after = RULES.apply(state, [update])
    assert after.version == 2
    assert after.params is state.params


def test_restart_goes_back_to_the_first_model_after_choosing():
    rules = replace(RULES, restart=True)
    state = rules.init(start())
    state = rules.apply(state, [trained(rules)])
    assert digest(state.params) != digest(start())
    state = rules.apply(state, [asked(rules, CLASSED, {})])
    assert state.params is state.first
    assert state.version == 2


def test_a_late_answer_of_the_other_kind_is_harmless():
    """An asynchronous pacer may fold answers of both kinds at once."""
    state = RULES.init(start())
    model, count = trained(RULES), asked(RULES, CLASSED, {})
    mixed = RULES.apply(state, [model, replace(count, peer="b")])
    alone = RULES.apply(state, [model])
    assert digest(mixed.params) == digest(alone.params)
    only = RULES.apply(state, [count])
    assert (only.version, only.params) == (1, state.params)


@dataclass(frozen=True)
class Guarded(Classed):
    """A task that lets nobody read a label that was not bought."""

    open: frozenset[int] = frozenset(range(24))

    def only(self, rows):
        assert set(map(int, rows)) <= self.open, "trained on an unlabelled example"
        return super().only(rows)

    def targets(self, rows):
        assert set(map(int, rows)) <= self.open, "read an unlabelled target"
        return super().targets(rows)

    def batches(self, seed):
        assert self.rows is not None, "trained on everything"
        return super().batches(seed)


@pytest.mark.parametrize("loss", ["kcfu", "balanced", "plain"])
@pytest.mark.parametrize("query", ["ksas", "entropy", "random"])
def test_no_unlabelled_target_is_ever_read(loss, query):
    rules = replace(RULES, loss=loss, query=query)
    kept, state = {}, rules.init(start())
    open_rows = frozenset(trained(rules).keep["labelled"].tolist())
    for _ in range(5):
        task = Guarded(0, open=open_rows)
        update = TRAINER(task, replace(rules.work(state, "a"), kept=kept), "a")
        kept = update.keep
        open_rows = frozenset(kept["labelled"].tolist())
        state = rules.apply(state, [update])
    assert len(open_rows) == 24


def table(labels):
    """Forty rows of two numbers; targets of three classes as given."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, 2, generator=g)
    return Dataset("table", (x, labels), (x[:3], labels[:3]), lambda: mlp(2, 4, 3))


def test_other_labels_change_no_bit_on_real_shards():
    """Both ways through the trainers, the fused one too, see only what is bought."""
    rows, labels = np.arange(40), torch.arange(40) % 3
    before = Shard(table(labels), rows)
    for loss in ("plain", "kcfu"):
        rules = Kafal(loss=loss, labelled=0.3, more=0.2, cycle=1, steps=2)
        first = trained(rules, before, start(before))
        bought = first.keep["labelled"]
        wrong = (labels + 1) % 3
        wrong[bought] = labels[bought]
        after = Shard(table(wrong), rows)
        same = trained(rules, after, start(before))
        assert digest(first.payload) == digest(same.payload)
        picks = [asked(rules, t, first.keep, start(before)) for t in (before, after)]
        assert torch.equal(*(p.keep["labelled"] for p in picks))


@dataclass(frozen=True)
class Row(Classed):
    """Example i is the number i, and of class i % 2."""

    def model(self):
        return torch.nn.Linear(1, 2)

    def inputs(self, rows):
        return torch.arange(24.0).view(-1, 1)[rows]

    def targets(self, rows):
        return torch.as_tensor(rows) % 2


def linear(slope):
    """Return scores (0, slope * x)."""
    return {"weight": torch.tensor([[0.0], [slope]]), "bias": torch.zeros(2)}


def picked(query, slope, kept, more=3 / 24):
    rules = Kafal(query=query, more=more)
    update = asked(rules, Row(0), kept, linear(slope))
    fresh = set(update.keep["labelled"].tolist()) - set(kept["labelled"].tolist())
    return sorted(fresh)


KEPT = {"labelled": torch.tensor([3, 4, 5, 6])}


def test_entropy_picks_where_the_server_is_unsure():
    """Scores are (0, x): the smaller x, the less sure."""
    assert picked("entropy", 1.0, KEPT) == [0, 1, 2]


def test_ksas_picks_where_the_two_disagree():
    """Slopes of opposite sign disagree the more, the larger x."""
    own = {f"own/{k}": t for k, t in linear(-0.1).items()}
    assert picked("ksas", 0.1, {**KEPT, **own}) == [21, 22, 23]


def test_equals_are_settled_by_chance():
    own = {f"own/{k}": t for k, t in linear(0.1).items()}
    draws = [
        picked("ksas", 0.1, {**KEPT, **own}),  # they agree about everything
        picked("ksas", 0.1, KEPT),  # it has not trained yet
        picked("random", 0.1, KEPT),
    ]
    assert draws[0] == draws[1] == draws[2] != [0, 1, 2]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("cycle", 0), ("labelled", 0.0), ("labelled", 1.5), ("more", -0.1)],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        Kafal(**{setting: value})


@pytest.mark.parametrize(
    "hints", [{"labelled": 0.0}, {"labelled": "all"}, {"loss": "magic"}, {"loss": 3}]
)
def test_odd_hints_are_refused(hints):
    work = RULES.work(RULES.init(start()), "a")
    with pytest.raises(ProtocolError, match="hint"):
        TRAINER(CLASSED, replace(work, hints={**work.hints, **hints}), "a")


def test_odd_ways_to_choose_are_refused():
    work = RULES.work(replace(RULES.init(start()), version=1), "a")
    with pytest.raises(ProtocolError, match="this peer knows: ksas, entropy, random"):
        TRAINER(CLASSED, replace(work, hints={**work.hints, "query": "best"}), "a")


def test_what_was_kept_of_other_examples_is_refused():
    with pytest.raises(ProtocolError, match="of other examples"):
        trained(RULES, kept={"labelled": torch.tensor([24])})


def test_tasks_that_do_not_fit_are_told_why():
    with pytest.raises(ConfigError, match=r"Line has no only\(\)"):
        trained(RULES, Line(seed=0), params_of(Line(seed=0).model()))
    text = Dataset(
        "text",
        (torch.zeros(9, 2, dtype=torch.int64), torch.zeros(9, dtype=torch.int64)),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        Embedded,
    )
    params = params_of(text.new_model())
    state = replace(RULES.init(params), version=2)
    with pytest.raises(ConfigError, match=r"use strategy\.loss=balanced"):
        TRAINER(text.whole(), RULES.work(state, "a"), "a")


class Embedded(torch.nn.Module):
    """Two classes of pairs of letters."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 2)

    def forward(self, x):
        return self.table(x).sum(1)


def test_the_server_sees_counts_and_no_more():
    update = asked(RULES, CLASSED, trained(RULES).keep)
    assert update.payload.keys() == {"picked"}
    sent = RULES.expects(RULES.work(replace(RULES.init(start()), version=1), "a"))
    assert {k: t.shape for k, t in sent.items()} == {"picked": (1,)}


@pytest.mark.slow
def test_labels_bought_pay():
    data = load_task("digits", {"model": "linear"})
    tasks = dict(federate(data, IID(), 5, seed=0))

    def accuracy(cycle, **settings):
        rules = Kafal(labelled=0.02, more=0.1, cycle=cycle, epochs=5, **settings)
        state = run_rounds(rules, SGD(lr=0.2), tasks, data.start(0), rounds=11)
        return data.whole().evaluate(load(data.new_model(), state.params))["accuracy"]

    for settings in ({}, {"query": "entropy", "loss": "plain"}, {"query": "random"}):
        none, some = (accuracy(cycle, **settings) for cycle in (100, 3))
        assert some > none + 0.05


def test_a_question_that_comes_again_buys_no_second_lot_of_labels():
    """As on a real peer whose answer was lost: it remembers, the server does not."""
    first = asked(RULES, CLASSED, {})
    again = asked(RULES, CLASSED, first.keep)
    assert first.metrics["picked"] == 8
    assert again.metrics == first.metrics
    assert digest(again.keep) == digest(first.keep)
    next_one = asked(RULES, CLASSED, first.keep, number=1)
    assert next_one.metrics["labelled"] == first.metrics["labelled"] + 8
