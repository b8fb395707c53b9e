"""Examples by number: only what is asked for is given."""

import numpy as np
import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset, Shard
from clients.trainers.pool import every, pool_of, scores
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.task import params_of
from sims.line import Line

METHOD = SGD().method()


def data(**settings):
    """Row i holds the number i and is of class i % 3; held-out ones are negative."""
    x = torch.arange(20.0).view(-1, 1)
    test = (-x[1:6], torch.tensor([0, 0, 0, 1, 2]))
    return Dataset(
        "numbered", (x, torch.arange(20) % 3), test, lambda: nn.Linear(1, 3), **settings
    )


SHARD = Shard(data(), np.array([3, 5, 8, 13]), np.array([0, 1]))


def test_only_some_examples_by_their_number_here():
    part = SHARD.only(np.array([1, 3]))
    assert part.rows.tolist() == [5, 13]
    assert (part.examples, part.epoch_steps) == (2, 1)
    assert part.held_out is SHARD.held_out
    assert part.only(np.array([1])).rows.tolist() == [13]


def test_inputs_and_targets_come_apart():
    assert SHARD.inputs(np.array([2, 0])).flatten().tolist() == [8.0, 3.0]
    assert SHARD.targets(np.array([2, 0])).tolist() == [2, 0]
    assert every(SHARD).tolist() == [0, 1, 2, 3]


def test_public_inputs_are_those_given():
    given = torch.tensor([[100.0], [101.0], [102.0]])
    shard = data(public=given).whole()
    assert torch.equal(shard.public(2), given[:2])
    with pytest.raises(ConfigError, match="3 public inputs, not 4"):
        shard.public(4)


def test_without_any_they_are_training_inputs_the_same_for_all():
    one, other = data().whole(), Shard(data(), np.array([7]))
    assert torch.equal(one.public(6), other.public(6))
    drawn = one.public(6).flatten().tolist()
    assert len(set(drawn)) == 6
    assert min(drawn) >= 0.0, "held-out rows are negative"
    for count in (0, 21):
        with pytest.raises(ConfigError, match="ask for 1 to 20"):
            one.public(count)


def test_public_inputs_must_be_like_the_others():
    for odd in (torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.int64)):
        with pytest.raises(ConfigError, match="not as the training inputs"):
            data(public=odd)
    with pytest.raises(ConfigError, match="public holds NaN"):
        data(public=torch.tensor([[float("nan")]]))
    assert data().digest() != data(public=torch.zeros(4, 1)).digest()


def test_a_task_without_the_functions_is_told_which():
    assert pool_of(SHARD, "only", "public") is SHARD
    with pytest.raises(ConfigError, match=r"Line has no only\(\)"):
        pool_of(Line(seed=0), "only", "inputs")


def test_scores_by_hand_many_at_once():
    weights = {
        "weight": torch.tensor([[1.0], [0.0], [-1.0]]),
        "bias": torch.tensor([0.0, 2.0, 0.0]),
    }
    x = torch.arange(2500.0).view(-1, 1)
    said = scores(SHARD, weights, x, "a", METHOD)
    assert said.shape == (2500, 3)
    assert torch.equal(said[:, 0], x[:, 0])
    assert said[2, :].tolist() == [2.0, 2.0, -2.0]


def test_models_that_fit_badly_or_tell_no_classes_apart_are_refused():
    with pytest.raises(ProtocolError, match="a: 'weight' has shape"):
        scores(SHARD, {"weight": torch.zeros(2, 1)}, torch.zeros(1, 1), "a", METHOD)
    line = Line(seed=0)
    with pytest.raises(ConfigError, match="one score for each"):
        scores(line, params_of(line.model()), torch.zeros(2, 4), "a", METHOD)
