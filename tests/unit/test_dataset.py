import math
from itertools import chain, islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from clients.tasks.dataset import GATHER_ROWS, Dataset, Federation, accuracy
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.rounds import run_rounds
from fedcore.task import Task, load
from strategies.fedavg import FedAvg


def numbered(count, batch_size=4, **more):
    """Row i holds the number i and is of class i % 3."""
    x = torch.arange(float(count)).view(-1, 1)
    y = torch.arange(count) % 3
    test = (torch.zeros(5, 1), torch.tensor([0, 0, 0, 1, 2]))
    model = lambda: nn.Linear(1, 3)  # noqa: E731
    return Dataset("numbered", (x, y), test, model, batch_size=batch_size, **more)


def seen(batches, count):
    return [x.flatten().int().tolist() for x, _ in islice(batches, count)]


def test_an_epoch_uses_every_row_once_and_the_last_batch_is_smaller():
    task = numbered(10).whole()
    assert task.examples == 10
    assert task.epoch_steps == 3
    epoch = seen(task.batches(seed=7), 3)
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(chain(*epoch)) == list(range(10))


def test_epochs_and_seeds_have_their_own_order_and_repeat():
    task = numbered(10).whole()
    six = seen(task.batches(seed=7), 6)
    assert six == seen(task.batches(seed=7), 6)
    assert six[:3] != six[3:]
    assert six[:3] != seen(task.batches(seed=8), 3)


def test_epochs_longer_than_one_gather_are_whole():
    count = 2 * GATHER_ROWS + 5
    task = numbered(count, batch_size=7).whole()
    epoch = seen(task.batches(seed=0), task.epoch_steps)
    assert sorted(chain(*epoch)) == list(range(count))
    assert {len(batch) for batch in epoch[:-1]} == {7}


def test_inputs_and_targets_stay_together():
    x, y = next(numbered(100).whole().batches(seed=1))
    assert torch.equal(x.flatten().long() % 3, y)


def test_evaluate_is_the_mean_over_held_out_rows():
    task = numbered(10).whole()
    model = load(task.model(), {"weight": torch.zeros(3, 1), "bias": torch.zeros(3)})
    model.train()
    figures = task.evaluate(model)
    assert figures["loss"] == pytest.approx(math.log(3))
    assert figures["accuracy"] == pytest.approx(3 / 5)  # class 0 wins ties
    assert figures["examples"] == 5
    assert model.training


def test_a_peer_with_its_own_held_out_rows_is_evaluated_on_them():
    data = numbered(4)
    peers = Federation(data, [np.array([0, 1])], held_out=[np.array([3, 4])])
    task = peers["peer-000000"]
    model = load(task.model(), {"weight": torch.zeros(3, 1), "bias": torch.zeros(3)})
    assert task.evaluate(model)["accuracy"] == 0
    assert task.evaluate(model)["examples"] == 2


def test_accuracy_counts_every_position_of_a_sequence():
    outputs = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])  # (1, classes, positions)
    assert accuracy(outputs, torch.tensor([[0, 0]])).item() == 0.5


def test_models_are_copies_that_share_nothing():
    data = numbered(4)
    one, other = data.new_model(), data.new_model()
    with torch.no_grad():
        one.weight.fill_(5)
    assert not torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, data.new_model().weight)


def test_start_is_named_by_its_seed_and_leaves_the_generator_alone():
    data = numbered(4)
    before = torch.default_generator.get_state()
    first, again, other = data.start(1), data.start(1), data.start(2)
    data.new_model()
    assert torch.equal(torch.default_generator.get_state(), before)
    assert torch.equal(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])


def test_digest_changes_with_the_data():
    assert numbered(4).digest() == numbered(4).digest()
    assert numbered(4).digest() != numbered(5).digest()


def test_loss_name_tells_trainers_what_they_may_fuse():
    assert numbered(4).whole().loss_name == "cross_entropy"
    own = numbered(4, loss=lambda outputs, y: cross_entropy(outputs, y)).whole()
    assert own.loss_name == "custom"


def test_federation_makes_tasks_when_looked_up():
    peers = Federation(numbered(6), [np.array([0, 1, 2]), np.array([3, 4, 5])])
    assert list(peers) == ["peer-000000", "peer-000001"]
    task: Task = peers["peer-000001"]
    assert sorted(chain(*seen(task.batches(0), 1))) == [3, 4, 5]
    for stranger in ("peer-000002", "peer-1", "peer--00001", "x", "", "peer-²"):
        assert stranger not in peers


def test_more_peers_than_parts_share_them_in_turn():
    parts = [np.array([0, 1]), np.array([2, 3, 4])]
    peers = Federation(numbered(5), parts, peers=10_000)
    assert len(peers) == 10_000
    assert list(peers) == sorted(peers)
    assert peers["peer-009998"].rows.tolist() == [0, 1]
    assert peers["peer-009999"].rows.tolist() == [2, 3, 4]


@pytest.mark.parametrize("parts", [[], [np.array([0]), np.array([], dtype=int)]])
def test_a_federation_without_rows_is_refused(parts):
    with pytest.raises(ConfigError, match="part"):
        Federation(numbered(4), parts)


def test_the_reference_loop_learns_digits():
    from clients.tasks import load_task

    data = load_task("digits")
    parts = np.array_split(np.arange(len(data.train[0])), 5)
    state = run_rounds(
        FedAvg(epochs=2), SGD(lr=0.3), Federation(data, parts), data.start(0), rounds=5
    )
    task = data.whole()
    figures = task.evaluate(load(task.model(), state.params))
    assert figures["accuracy"] > 0.9


X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])


class Failing(nn.Linear):
    def forward(self, x):
        raise RuntimeError("out of order")


BAD = {
    "rows": ({"train": (X, Y[:3])}, "4 rows but y has 3"),
    "type": ({"train": (X.numpy(), Y)}, "torch.as_tensor"),
    "pair": ({"train": X}, "pair"),
    "empty": ({"test": (X[:0], Y[:0])}, "test x has shape"),
    "scalar": ({"test": (X, torch.tensor(0))}, "test y has shape"),
    "nan": ({"train": (X / 0, Y)}, "NaN"),
    "batch": ({"batch_size": 0}, "batch_size is 0"),
    "groups": ({"groups": np.array([1])}, "groups has shape"),
    "owners": ({"groups": [0, 0, 1, 1]}, "groups has shape list"),
    "outputs": ({"model": lambda: nn.GRU(2, 3)}, "returns a tuple"),
    "shape": ({"model": lambda: nn.Linear(3, 3)}, "cannot take x of shape"),
    "dtype": ({"train": (X.double(), Y)}, "cannot take x"),
    "model": ({"model": lambda: 3}, "returned a int"),
    "no model": ({"model": lambda: 1 / 0}, "ZeroDivisionError"),
    "raises": ({"model": lambda: Failing(2, 3)}, "out of order .*test_dataset.py:"),
    "frozen": ({"model": nn.Identity}, "no parameter"),
    "classes": ({"model": lambda: nn.Linear(2, 2)}, "has 2 outputs"),
    "negative": ({"train": (X, Y - 1)}, "run from -1 to 1"),
    "targets": ({"train": (X, Y.view(4, 1))}, "loss cannot take outputs"),
    "loss": ({"loss": lambda outputs, y: outputs}, "mean of shape"),
    "metric": ({"metrics": {"f1": lambda o, y: o.nope}}, "f1 cannot take"),
}


@pytest.mark.parametrize("name", BAD)
def test_pieces_that_do_not_fit_are_refused(name):
    change, message = BAD[name]
    good = {"name": "t", "train": (X, Y), "test": (X, Y)}
    good["model"] = lambda: nn.Linear(2, 3)
    Dataset(**good)
    with pytest.raises(ConfigError, match=message):
        Dataset(**(good | change))


def test_regression_needs_only_its_own_loss_and_no_accuracy():
    target = torch.ones(4, 1)
    data = Dataset(
        "line", (X, target), (X, target), lambda: nn.Linear(2, 1), mse_loss, metrics={}
    )
    model = load(
        data.new_model(), {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
    )
    assert data.whole().evaluate(model) == {"loss": 1.0, "examples": 4.0}
