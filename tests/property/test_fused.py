"""Laws of the fused path over random stacks, data and cohorts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients.tasks.dataset import Dataset, Federation
from clients.trainers import autograd
from clients.trainers.plan import plan_for
from clients.trainers.sgd import SGD
from fedcore.params import digest
from fedcore.strategy import Work, peer_name
from sims.engine import Job, make_engine

CLASSES = 3
widths = st.integers(1, 33)
seeds = st.integers(0, 2**32)


@st.composite
def stacks(draw):
    """Return the makers of a random stack of dense layers, and its inputs."""
    inputs = draw(widths)
    makers, width = [nn.Flatten] if draw(st.booleans()) else [], inputs
    for _ in range(draw(st.integers(0, 3))):
        out, bias = draw(widths), draw(st.booleans())
        makers.append(lambda i=width, o=out, b=bias: nn.Linear(i, o, b))
        makers.append(draw(st.sampled_from([nn.ReLU, nn.Tanh])))
        width = out
    makers.append(lambda: nn.Linear(width, CLASSES))
    return lambda: nn.Sequential(*(make() for make in makers)), (inputs,)


@st.composite
def image_stacks(draw):
    """Return the maker of a random convolutional stack on 1 x 9 x 9 images."""
    makers, channels, side = [], 1, 9
    for _ in range(draw(st.integers(1, 2))):
        out, padding = draw(st.integers(1, 5)), draw(st.integers(0, 1))
        stride, bias = draw(st.integers(1, 2)), draw(st.booleans())
        makers.append(
            lambda i=channels, o=out, s=stride, p=padding, b=bias: nn.Conv2d(
                i, o, 2, stride=s, padding=p, bias=b
            )
        )
        channels, side = out, (side + 2 * padding - 2) // stride + 1
        makers.append(draw(st.sampled_from([nn.ReLU, nn.Tanh])))
        if side >= 2 and draw(st.booleans()):
            pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
            makers.append(lambda kind=pool: kind(2))
            side //= 2
    numbers = channels * side * side
    makers += [nn.Flatten, lambda: nn.Linear(numbers, CLASSES)]
    return lambda: nn.Sequential(*(make() for make in makers)), (1, 9, 9)


def noise(stack, rows, batch_size, seed):
    model, shape = stack
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, *shape, generator=g)
    y = torch.randint(0, CLASSES, (rows,), generator=g)
    return Dataset("noise", (x, y), (x, y), model, batch_size=batch_size)


@settings(deadline=None, max_examples=20)
@given(
    stack=stacks() | image_stacks(),
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 17),
    seed=seeds,
    decay=st.sampled_from([0.0, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
)
def test_fused_is_autograd(stack, rows, batch_size, seed, decay, momentum):
    """To 1e-5 of the weights' size: the order of some sums differs."""
    task = noise(stack, rows, batch_size, seed).whole()
    assert plan_for(task) is not None
    trainer = SGD(0.05, momentum=momentum, weight_decay=decay)
    work = Work(0, task.dataset.start(seed), steps=4)
    got = trainer(task, work, "a")
    want = autograd.train(task, work, "a", trainer.method(), trainer.rule(work))
    for name, t in want.payload.items():
        torch.testing.assert_close(got.payload[name], t, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(
    stack=stacks(),
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=7),
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 2),
    seed=seeds,
)
def test_company_changes_no_bit(stack, sizes, batch_size, epochs, seed):
    """Whatever the shapes, and however ragged: batched is the loop, bit for bit."""
    data = noise(stack, sum(sizes), batch_size, seed)
    parts = torch.arange(sum(sizes)).split(sizes)
    tasks = Federation(data, [p.numpy() for p in parts])
    work = Work(0, data.start(seed), epochs=epochs)
    jobs = [Job(peer_name(i), work) for i in range(len(sizes))]
    alone = make_engine(SGD(0.1), tasks, kind="loop").run(jobs)
    for company in (jobs, jobs[::-1], jobs[1:]):
        together = make_engine(SGD(0.1), tasks, kind="batched").run(company)
        for update in together:
            want = alone[int(update.peer[-6:])]
            assert digest(update.payload) == digest(want.payload)
            assert update.metrics == want.metrics
