"""Which models take the fused path, and that it computes what autograd computes."""

from dataclasses import dataclass
from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset, Federation
from clients.trainers import autograd
from clients.trainers.adamw import AdamW
from clients.trainers.plan import Conv, Dense, Flat, MaxPool, Relu, plan_for, plan_of
from clients.trainers.sgd import SGD
from fedcore.errors import ProtocolError
from fedcore.params import digest
from fedcore.strategy import Work, peer_name

ROWS = 50  # of the data: batches of 16, 16, 16 and 2


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 2, bias=False),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5, 4),
    )


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False)),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 4),
    ),
    "pool first": lambda: nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(1, 2, 3, dilation=2),
        nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Flatten()),
        nn.Tanh(),
        nn.Tanh(),
        nn.ReLU(),
        nn.Linear(2, 4),
    ),
}
TRAINERS = {
    "plain": SGD(0.2),
    "decay": SGD(0.2, weight_decay=0.1),
    "momentum": SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "clipped": SGD(0.2, clip_norm=0.3),
}


def data(model=mlp, shape=(1, 6, 6), **settings):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, *shape, generator=g)
    y = torch.randint(0, 4, (ROWS,), generator=g)
    return Dataset("noise", (x, y), (x, y), model, batch_size=16, **settings)


def gap(got, want):
    return max((got[n] - t).abs().max().item() for n, t in want.items())


def both(task, work, trainer):
    fused = trainer(task, work, "a")
    slow = autograd.train(task, work, "a", trainer.method(), trainer.rule(work))
    return fused, slow


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_fused_is_autograd_to_1e_6(model, trainer):
    """Two epochs, so that short batches come in the middle too."""
    task = data(model).whole()
    assert plan_for(task) is not None
    work = Work(0, task.dataset.start(1), epochs=2)
    fused, slow = both(task, work, trainer)
    assert gap(fused.payload, slow.payload) < 1e-6
    assert fused.metrics["loss"] == pytest.approx(slow.metrics["loss"], rel=1e-6)
    assert fused.metrics["steps"] == slow.metrics["steps"] == 8.0
    assert fused.payload.keys() == slow.payload.keys()
    assert all(t.is_contiguous() for t in fused.payload.values())


def test_fused_adamw_is_autograd_where_gradients_are_not_tiny():
    task = data().whole()
    work = Work(0, task.dataset.start(1), epochs=2)
    fused, slow = both(task, work, AdamW(lr=0.01, eps=1e-3))
    assert gap(fused.payload, slow.payload) < 1e-5


def test_fused_obeys_pull_and_correction():
    task = data(cnn).whole()
    start = task.dataset.start(1)
    aux = {n: torch.full_like(t, 0.1) for n, t in start.items()}
    work = Work(0, start, steps=5, aux=aux, hints={"mu": 0.5})
    fused, slow = both(task, work, SGD(0.1))
    assert gap(fused.payload, slow.payload) < 1e-6
    plain = SGD(0.1)(task, Work(0, start, steps=5), "a")
    assert gap(fused.payload, plain.payload) > 1e-3


def test_one_step_by_hand():
    """x = (1, 2), weights 0: both classes at 1/2, so the gradient is ±x / 2."""
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    shape = partial(nn.Linear, 2, 2)
    task = Dataset("d", (x, y), (x, y), lambda: nn.Sequential(shape())).whole()
    start = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
    update = SGD(lr=1.0)(task, Work(0, start, 1), "a")
    assert update.payload["0.weight"].tolist() == [[-0.5, -1.0], [0.5, 1.0]]
    assert update.payload["0.bias"].tolist() == [-0.5, 0.5]
    assert update.metrics["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_plan_of_a_network():
    plan = plan_of(cnn())
    kinds = [type(layer).__name__ for layer in plan.layers]
    assert kinds == [
        "Conv",
        "MaxPool",
        "Relu",
        "Conv",
        "Tanh",
        "AvgPool",
        "Flat",
        "Dense",
    ]
    assert isinstance(plan.layers[0], Conv)
    assert plan.layers[1] == MaxPool((2, 2), (2, 2), (0, 0), (1, 1), False)
    assert plan.layers[-1] == plan.last == Dense("7.weight", "7.bias")
    assert plan.numbers == 3 * 9 + 3 + 5 * 3 * 4 + 5 * 4 + 4
    assert not plan.many
    assert plan_of(mlp()).many
    assert plan_of(mlp()).layers == (
        Flat(),
        Dense("1.weight", "1.bias"),
        Relu(),
        Dense("3.weight", "3.bias"),
    )


class Own(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, x):
        return super().forward(x) * 2


def headed(layer, numbers):
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(numbers, 4))


def frozen():
    model = mlp()
    model[1].bias.requires_grad_(False)
    return model


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def hooked():
    model = mlp()
    model[1].register_forward_hook(lambda module, x, out: out * 2)
    return model


def doubled():
    return mlp().double()


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Linear(36, 4),
        lambda: nn.Sequential(Own(36, 4)),
        lambda: nn.Sequential(nn.Linear(36, 4), nn.Dropout(0.1), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(36, 4), nn.ReLU()),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(36, 4)),
        lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(36, 4)),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Flatten(), nn.Conv2d(1, 2, 3), nn.Linear(4, 4)),
        lambda: headed(nn.Conv2d(1, 2, 3, padding="same"), 72),
        lambda: headed(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), 72),
        lambda: headed(nn.AvgPool2d(2, divisor_override=3), 9),
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(36, 4)),
        lambda: nn.Sequential(),
        frozen,
        tied,
        hooked,
        doubled,
    ],
)
def test_other_models_need_autograd(model):
    assert plan_of(model()) is None


@dataclass(frozen=True)
class Batches:
    """A task that promises cross-entropy and yields what it is given."""

    batch: object
    net: object = mlp
    loss_name: str = "cross_entropy"
    examples: int = 4
    epoch_steps: int = 1

    def model(self):
        torch.manual_seed(0)
        return self.net()

    def batches(self, seed):
        while True:
            yield self.batch

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_soft_labels_and_other_losses_fall_back_to_autograd():
    x, hard = torch.randn(4, 36), torch.tensor([0, 1, 2, 3])
    soft = torch.full((4, 4), 0.25)
    start = data().start(0)
    for batch in [(x, soft), [x, hard], (x, hard)]:
        task = Batches(batch)
        fused, slow = both(task, Work(0, start, 2), SGD())
        assert gap(fused.payload, slow.payload) < 1e-6
    assert plan_for(Batches((x, hard), loss_name="custom")) is None
    other = data(loss=nn.functional.multi_margin_loss).whole()
    assert plan_for(other) is None
    assert SGD()(other, Work(0, start, 1), "a").metrics["loss"] > 0


def test_a_class_that_the_model_lacks_is_an_error():
    task = Batches((torch.randn(2, 36), torch.tensor([0, 4])))
    with pytest.raises((IndexError, RuntimeError)):
        SGD()(task, Work(0, data().start(0), 1), "a")


def test_work_that_does_not_fit_is_refused_here_too():
    task = data().whole()
    start = task.dataset.start(0)
    with pytest.raises(ProtocolError, match="no tensor 'extra'"):
        SGD()(task, Work(0, {**start, "extra": torch.zeros(1)}, 1), "a")
    with pytest.raises(ProtocolError, match="shape"):
        SGD()(task, Work(0, {**start, "1.bias": torch.zeros(9)}, 1), "a")


def test_examples_are_not_overwritten():
    task = Batches((torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 3])), net=cnn)
    before = task.batch[0].clone()
    SGD()(task, Work(0, data(cnn).start(0), 3), "a")
    assert torch.equal(task.batch[0], before)


@dataclass(frozen=True)
class Drawn:
    """A shard that hides its row numbers, so that its batches are used as they come."""

    shard: object
    loss_name: str = "cross_entropy"

    @property
    def examples(self):
        return self.shard.examples

    @property
    def epoch_steps(self):
        return self.shard.epoch_steps

    def model(self):
        return self.shard.model()

    def batches(self, seed):
        return self.shard.batches(seed)


@pytest.mark.parametrize("model", [mlp, cnn])
def test_rows_and_batches_feed_the_same_bits(model):
    shard = data(model).whole()
    work = Work(0, shard.dataset.start(0), epochs=2)
    drawn, gathered = (SGD()(task, work, "a") for task in (Drawn(shard), shard))
    assert digest(drawn.payload) == digest(gathered.payload)
    assert drawn.metrics == gathered.metrics


def test_orders_are_the_rows_of_the_batches():
    shard = data().whole()
    pairs = zip(shard.orders(3), shard.batches(3), strict=False)
    for rows, (x, y) in islice(pairs, 9):
        assert torch.equal(x, shard.dataset.train[0][rows])
        assert torch.equal(y, shard.dataset.train[1][rows])


def cohort(trainer, sizes, model=mlp, epochs=2):
    set_ = data(model)
    parts, first = [], 0
    for size in sizes:
        parts.append((torch.arange(first, first + size) % ROWS).numpy())
        first += size
    tasks = Federation(set_, parts)
    work = Work(0, set_.start(1), epochs=epochs)
    jobs = [(tasks[peer_name(i)], work, peer_name(i)) for i in range(len(sizes))]
    plan = trainer.cohort(*jobs[0][:2])
    return trainer.together(jobs, plan), [trainer(*job) for job in jobs]


@pytest.mark.parametrize("trainer", [SGD(0.2), SGD(0.2, weight_decay=0.1)], ids=repr)
def test_a_cohort_gives_each_the_bits_it_gets_alone(trainer):
    """Sizes below a batch, equal to one, ragged, repeated, and not sorted."""
    together, alone = cohort(trainer, [7, 40, 16, 33, 1, 33, 50])
    for a, b in zip(together, alone, strict=True):
        assert (a.peer, a.examples) == (b.peer, b.examples)
        assert digest(a.payload) == digest(b.payload)
        assert a.metrics == b.metrics


def test_payloads_of_a_cohort_share_no_memory():
    together, _ = cohort(SGD(), [20, 20, 20])
    stores = {
        t.untyped_storage().data_ptr() for u in together for t in u.payload.values()
    }
    assert len(stores) == 3 * 4


@pytest.mark.parametrize(
    ("trainer", "work"),
    [
        (SGD(momentum=0.9), {}),
        (SGD(clip_norm=1.0), {}),
        (SGD(), {"hints": {"mu": 0.1}}),
        (SGD(), {"hints": {"lr": 0.1}}),
        (SGD(), {"aux": {"1.bias": torch.zeros(8)}}),
    ],
    ids=str,
)
def test_what_is_not_plain_trains_alone(trainer, work):
    task = data().whole()
    assert trainer.cohort(task, Work(0, task.dataset.start(0), **work)) is None
    assert SGD().cohort(task, Work(0, task.dataset.start(0))) is not None
    assert SGD().cohort(data(cnn).whole(), Work(0, data(cnn).start(0))) is None
