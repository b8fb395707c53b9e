"""The duty ``choose``: the best of several models is found and trained."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from clients.trainers.adamw import AdamW
from clients.trainers.autograd import rows_of
from clients.trainers.sgd import SGD
from fedcore.errors import ProtocolError
from fedcore.params import digest
from fedcore.strategy import Work


@dataclass(frozen=True)
class Point:
    """Bring one weight to ``goal``: loss is the mean of (w - goal)² over batches."""

    goal: float
    sizes: tuple[int, ...] = (1, 3)
    shift: float = 0.0  # of the goal in the second batch
    examples: int = 4

    @property
    def epoch_steps(self):
        return len(self.sizes)

    def model(self):
        return nn.Linear(1, 1, bias=False)

    def batches(self, seed):
        while True:
            for i, size in enumerate(self.sizes):
                yield torch.full((size, 1), self.goal + i * self.shift)

    def loss(self, model, batch):
        return (model.weight - batch).square().mean()


def one(value):
    return {"weight": torch.tensor([[value]])}


def work_of(*values, **settings):
    aux = {f"{j}/weight": torch.tensor([[v]]) for j, v in enumerate(values) if j}
    hints = {"do": "choose", "choices": len(values), **settings}
    return Work(3, one(values[0]), steps=1, aux=aux, hints=hints)


def test_it_moves_the_nearest_model_one_step():
    """Of 0, 5, 9 the nearest to 4 is 5: gradient 2 (5 - 4), step 0.1."""
    update = SGD(lr=0.1)(Point(4.0), work_of(0.0, 5.0, 9.0), "a")
    assert update.metrics["choice"] == 1.0
    assert update.payload["weight"].item() == pytest.approx(-0.2)
    assert (update.version, update.examples) == (3, 4)
    assert update.metrics["steps"] == 1.0
    assert update.metrics["loss"] == pytest.approx(1.0)


def test_rows_count_not_batches():
    """One row at 0, three at 8: (9 + 75) / 4 = 21 at 3 and (36 + 12) / 4 = 12 at 6.

    Batches that all counted alike would say 17 and 20.
    """
    task = Point(0.0, shift=8.0)
    assert SGD()(task, work_of(3.0, 6.0), "a").metrics["choice"] == 1.0


def test_the_first_of_equals_wins_and_nan_loses():
    assert SGD()(Point(4.0), work_of(3.0, 5.0), "a").metrics["choice"] == 0.0
    lost = SGD()(Point(4.0), work_of(float("nan"), 50.0), "a")
    assert lost.metrics["choice"] == 1.0


def test_it_is_plain_descent_from_the_chosen_one():
    task, trainer = Point(4.0), SGD(lr=0.1, momentum=0.9)
    chosen = trainer(task, replace(work_of(0.0, 5.0), steps=4), "a")
    plain = trainer(task, Work(3, one(5.0), steps=4), "a")
    assert digest(chosen.payload) == digest(plain.payload)


def test_hints_of_plain_descent_still_count():
    slow = SGD(lr=0.1)(Point(4.0), work_of(0.0, 5.0, lr=0.01), "a")
    assert slow.payload["weight"].item() == pytest.approx(-0.02)
    assert AdamW(lr=0.1)(Point(4.0), work_of(0.0, 5.0), "a").metrics["choice"] == 1.0


@pytest.mark.parametrize("count", [0, -1, 1.0, "2", 10**9, None])
def test_an_odd_number_of_choices_is_refused(count):
    with pytest.raises(ProtocolError, match="choices must be 1 to"):
        SGD()(Point(4.0), work_of(0.0, 5.0, choices=count), "a")


def test_a_missing_or_misshapen_model_is_refused():
    with pytest.raises(ProtocolError, match="2/weight"):
        SGD()(Point(4.0), work_of(0.0, 5.0, choices=3), "a")
    odd = replace(work_of(0.0, 5.0), aux={"1/weight": torch.zeros(3)})
    with pytest.raises(ProtocolError, match="shape"):
        SGD()(Point(4.0), odd, "a")


def test_rows_are_seen_in_any_batch():
    x = torch.zeros(3, 2)
    assert [rows_of(b) for b in (x, (x, 1), {"x": [x]}, torch.ones(()), 7)] == [
        3, 3, 3, 1, 1,
    ]  # fmt: skip
