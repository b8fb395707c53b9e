"""SGD and AdamW against torch's own optimizers, and by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from clients.trainers.adamw import AdamW
from clients.trainers.schedule import Constant, Cosine, StepDecay
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.seeds import seed_of
from fedcore.strategy import Work
from fedcore.task import params_of
from sims.line import Line

STEPS = 7


@dataclass(frozen=True)
class Curve:
    """Fit a small tanh network by squared error: a task that needs autograd."""

    examples: int = 40
    epoch_steps: int = 4

    @staticmethod
    def built():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def model(self):
        return Curve.built()

    def batches(self, seed):
        g = torch.Generator().manual_seed(seed % 1000)
        while True:
            x = torch.randn(10, 3, generator=g)
            yield x, x.sum(1, keepdim=True).sin()

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()


def by_torch(optimizer, clip_norm=0.0):
    """Return how far torch's ``optimizer`` moves the model in the same batches."""
    torch.set_num_threads(1)
    task = Curve()
    model = task.model()
    start, steps = params_of(model), optimizer(model.parameters())
    batches = task.batches(seed_of("batches", "a", 0))
    for _ in range(STEPS):
        steps.zero_grad()
        task.loss(model, next(batches)).backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        steps.step()
    return {name: t - start[name] for name, t in params_of(model).items()}


def by_us(trainer):
    task = Curve()
    return trainer(task, Work(0, params_of(task.model()), STEPS), "a").payload


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=str,
)
def test_sgd_is_torchs_bit_for_bit(settings):
    got = by_us(SGD(lr=0.1, **settings))
    want = by_torch(lambda p: torch.optim.SGD(p, lr=0.1, **settings))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_clipping_is_torchs_bit_for_bit():
    got = by_us(SGD(lr=0.1, clip_norm=0.2))
    want = by_torch(lambda p: torch.optim.SGD(p, lr=0.1), clip_norm=0.2)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torchs_to_1e_6(weight_decay):
    """Not to the bit: torch divides by the root of the correction elsewhere."""
    got = by_us(AdamW(lr=0.01, weight_decay=weight_decay))
    want = by_torch(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=weight_decay))
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-6, rtol=1e-5)


def test_one_adamw_step_by_hand():
    """The first step is lr * sign(gradient), whatever the size of the gradient."""
    work = Work(0, {"weight": torch.zeros(1, 4)}, steps=1)
    moved = AdamW(lr=0.01, weight_decay=0.0)(Line(seed=0), work, "a").payload["weight"]
    torch.testing.assert_close(moved.abs(), torch.full((1, 4), 0.01))
    decayed = Work(0, {"weight": torch.full((1, 4), 100.0)}, steps=1)
    moved = AdamW(lr=0.01, weight_decay=0.5)(Line(seed=0), decayed, "a").payload
    want = torch.full((1, 4), -0.01 * 0.5 * 100.0 - 0.01)
    torch.testing.assert_close(moved["weight"], want, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class Slope:
    """One weight w, loss slope * w: the gradient is ``slope``, always."""

    slope: float = 1.0
    examples: int = 1
    epoch_steps: int = 1

    def model(self):
        return nn.Linear(1, 1, bias=False)

    def batches(self, seed):
        while True:
            yield torch.tensor([[self.slope]])

    def loss(self, model, batch):
        return model(batch).sum()


def moved(trainer, work, slope=1.0):
    return trainer(Slope(slope), work, "a").payload["weight"].item()


def at(value, steps=1, **settings):
    return Work(0, {"weight": torch.tensor([[value]])}, steps=steps, **settings)


def test_momentum_by_hand():
    """Moves 1, 1 + 0.5, 1 + 0.5 * 1.5 times lr."""
    assert moved(SGD(lr=0.1, momentum=0.5), at(0.0, 3)) == pytest.approx(-0.1 * 4.25)


def test_pull_comes_before_the_limit_and_the_correction_after_it():
    """Two steps from 0: gradient 3 clipped to 1, plus 0.25; then 3 + mu w, too."""
    work = at(0.0, 1, hints={"mu": 2.0}, aux={"weight": torch.tensor([[0.25]])})
    assert moved(SGD(lr=0.1, clip_norm=1.0), work, 3.0) == pytest.approx(-0.125)
    work = at(0.0, 2, hints={"mu": 2.0})
    assert moved(SGD(lr=0.1), work, 3.0) == pytest.approx(-0.3 - 0.1 * (3 - 0.6))


def test_work_may_choose_the_step_size():
    work = at(0.0, hints={"lr": 0.5})
    assert moved(SGD(lr=0.1, schedule=StepDecay(1, 0.1)), work) == -0.5
    assert moved(AdamW(lr=0.1, weight_decay=0.0), work) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1.0, 1.0, 1.0, 1.0, 1.0]),
        (Cosine(rounds=4), [1.0, 0.853553, 0.5, 0.146447, 0.0]),
        (Cosine(rounds=2, floor=0.2), [1.0, 0.6, 0.2, 0.2, 0.2]),
        (StepDecay(every=2, decay=0.1), [1.0, 1.0, 0.1, 0.1, 0.01]),
    ],
    ids=repr,
)
def test_schedule_follows_the_round(schedule, factors):
    got = []
    for version in range(5):
        work = Work(version, {"weight": torch.zeros(1, 1)}, steps=1)
        got.append(-moved(SGD(lr=0.5, schedule=schedule), work) / 0.5)
    assert got == pytest.approx(factors, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SGD(lr=0.0), "lr"),
        (lambda: SGD(lr=-0.1), "lr"),
        (lambda: SGD(lr=float("nan")), "lr"),
        (lambda: SGD(lr=float("inf")), "lr"),
        (lambda: SGD(momentum=1.0), "momentum"),
        (lambda: SGD(nesterov=True), "momentum > 0"),
        (lambda: SGD(weight_decay=-1.0), "weight_decay"),
        (lambda: SGD(clip_norm=-1.0), "clip_norm"),
        (lambda: SGD(device="gpu"), "cpu"),
        (lambda: AdamW(beta1=1.0), "beta1"),
        (lambda: AdamW(beta2=-0.1), "beta2"),
        (lambda: AdamW(eps=0.0), "eps"),
        (lambda: Cosine(rounds=0), "rounds"),
        (lambda: Cosine(floor=2.0), "floor"),
        (lambda: StepDecay(every=0), "every"),
        (lambda: StepDecay(decay=0.0), "decay"),
    ],
)
def test_impossible_settings_are_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()
