"""What holds for every gradient trainer, on whichever way through it."""

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset
from clients.trainers.adamw import AdamW
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Work
from fedcore.task import params_of
from sims.line import Line
from tests.cases import TRAINER, rules_of, task_of

START = {"weight": torch.zeros(1, 4)}


@dataclass(frozen=True)
class Net:
    """Fit noise with whatever network ``make`` makes."""

    make: object
    examples: int = 8
    epoch_steps: int = 2

    def model(self):
        torch.manual_seed(0)
        return self.make()

    def batches(self, seed):
        g = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(4, 3, generator=g)

    def loss(self, model, batch):
        return model(batch).square().mean()


PLAIN = SGD()


def run(make, trainer=PLAIN, **settings):
    task = Net(make)
    start = params_of(task.model())
    return trainer(task, Work(0, start, **{"steps": 3, **settings}), "a"), start


def test_metrics_tell_loss_and_steps():
    update, _ = run(lambda: nn.Linear(3, 1), epochs=2, steps=0)
    assert update.metrics["steps"] == 4.0
    one = run(lambda: nn.Linear(3, 1), SGD(lr=1e-30), steps=1)[0].metrics["loss"]
    task = Net(lambda: nn.Linear(3, 1))
    want = task.loss(task.model(), next(task.batches(0))).item()
    assert one == pytest.approx(want)
    assert update.examples == 8
    assert update.peer == "a"


def test_arguments_are_left_alone():
    task = Net(lambda: nn.Linear(3, 1))
    work = Work(0, params_of(task.model()), steps=3, hints={"mu": 0.1})
    before = digest(work.params)
    update = SGD(momentum=0.5)(task, work, "a")
    assert digest(work.params) == before
    own = {t.data_ptr() for t in update.payload.values()}
    assert own.isdisjoint(t.data_ptr() for t in work.params.values())


def test_batch_norm_travels_but_its_counter_does_not():
    def make():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    update, start = run(make)
    assert update.payload.keys() == start.keys()
    assert "1.running_mean" in update.payload
    assert "1.num_batches_tracked" not in update.payload
    assert update.payload["1.running_mean"].abs().sum() > 0


def test_dropout_is_drawn_by_peer_and_round():
    def make():
        return nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1))

    first, start = run(make)
    again = SGD()(Net(make), Work(0, start, 3), "a")
    other = SGD()(Net(make), Work(0, start, 3), "b")
    later = SGD()(Net(make), Work(1, start, 3), "a")
    digests = [digest(u.payload) for u in (first, again, other, later)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("trainer", [SGD(), AdamW()], ids=repr)
def test_global_draws_and_threads_are_put_back(trainer):
    torch.manual_seed(7)
    want, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(7)
    trainer(Line(seed=0), Work(0, START, 2), "a")
    assert torch.equal(torch.rand(3), want)
    assert torch.get_num_threads() == threads


def test_frozen_weights_stay_and_unused_ones_only_decay():
    def make():
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        model[0].weight.requires_grad_(False)
        return model

    update, _ = run(make)
    assert update.payload["0.weight"].abs().sum() == 0
    assert update.payload["1.weight"].abs().sum() > 0

    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    update, _ = run(Spare)
    assert update.payload["spare.weight"].abs().sum() == 0


def test_tied_weights_move_together():
    def make():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    update, _ = run(make)
    assert torch.equal(update.payload["0.weight"], update.payload["1.weight"])


def test_part_of_a_model_is_answered_with_that_part():
    """Adapters only: the rest of the model stays as the task makes it."""
    task = Net(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))
    part = {"1.weight": params_of(task.model())["1.weight"]}
    assert SGD()(task, Work(0, part, 2), "a").payload.keys() == part.keys()


@pytest.mark.parametrize("trainer", [SGD(), AdamW()], ids=repr)
@pytest.mark.parametrize(
    ("work", "told"),
    [
        (Work(0, {"wrong": torch.zeros(1, 4)}, 1), "no tensor 'wrong'"),
        (Work(0, {"weight": torch.zeros(1, 5)}, 1), r"\(1, 5\).*\(1, 4\)"),
        (Work(0, START, 1, aux={"weight": torch.zeros(3)}), "aux"),
        (Work(0, START, 1, hints={"mu": -1.0}), "hint mu"),
        (Work(0, START, 1, hints={"mu": float("nan")}), "hint mu"),
        (Work(0, START, 1, hints={"mu": "much"}), "hint mu"),
        (Work(0, START, 1, hints={"lr": 0.0}), "hint lr"),
    ],
)
def test_work_that_does_not_fit_is_refused(trainer, work, told):
    with pytest.raises(ProtocolError, match=told):
        trainer(Line(seed=0), work, "a")


def test_corrections_of_other_tensors_are_ignored():
    plain = SGD()(Line(seed=0), Work(0, START, 2), "a")
    work = Work(0, START, 2, aux={"elsewhere": torch.ones(9)})
    assert digest(SGD()(Line(seed=0), work, "a").payload) == digest(plain.payload)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_without_a_gpu():
    with pytest.raises(ConfigError, match="no GPU"):
        SGD(device="cuda")(Line(seed=0), Work(0, START, 1), "a")
    auto = SGD(device="auto")(Line(seed=0), Work(0, START, 1), "a")
    cpu = SGD(device="cpu")(Line(seed=0), Work(0, START, 1), "a")
    assert digest(auto.payload) == digest(cpu.payload)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_to_tolerance():
    cpu, _ = run(lambda: nn.Linear(3, 1))
    gpu, _ = run(lambda: nn.Linear(3, 1), SGD(device="cuda"))
    for name, t in cpu.payload.items():
        torch.testing.assert_close(gpu.payload[name], t, atol=1e-5, rtol=1e-4)


def test_trainers_compose():
    """A wrapper is a trainer like any other."""

    def halved(trainer):
        def train(task, work, peer):
            update = trainer(task, work, peer)
            half = {name: t / 2 for name, t in update.payload.items()}
            return replace(update, payload=half)

        return train

    whole = SGD()(Line(seed=0), Work(0, START, 2), "a").payload["weight"]
    half = halved(SGD())(Line(seed=0), Work(0, START, 2), "a").payload["weight"]
    assert torch.equal(half, whole / 2)


def test_batches_differ_by_peer_and_round():
    x = torch.arange(60.0).view(30, 2)
    y = torch.arange(30) % 2
    data = Dataset("d", (x / 60, y), (x, y), lambda: nn.Linear(2, 2), batch_size=4)
    start = data.start(0)
    seen = {
        digest(SGD()(data.whole(), Work(version, start, 2), peer).payload)
        for version in (0, 1)
        for peer in ("a", "b")
    }
    assert len(seen) == 4


@pytest.mark.slow
def test_importing_and_training_leave_torchs_optimizers_alone():
    """Their first use imports a compiler: 1.6 s."""
    program = (
        "import sys, torch\n"
        "from clients.trainers.adamw import AdamW\n"
        "from clients.trainers.sgd import SGD\n"
        "from fedcore.strategy import Work\n"
        "from sims.line import Line\n"
        "for trainer in (SGD(momentum=0.9), AdamW()):\n"
        "    trainer(Line(seed=0), Work(0, {'weight': torch.zeros(1, 4)}, 2), 'a')\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("name", ["fedamd", "flora", "gradient-coding", "sattler"])
def test_devices_that_are_not_there_are_not_seeded(name, monkeypatch):
    """``torch.manual_seed`` formats a stack trace for each kind of them, each time."""
    tasks = {f"peer{i}": task_of(name, i) for i in range(3)}
    start = params_of(tasks["peer0"].model())
    monkeypatch.setattr(torch, "manual_seed", None)
    assert run_rounds(rules_of(name), TRAINER, tasks, start, 1).version == 1
