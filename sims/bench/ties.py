"""What a pool's directions are worth: as good as independent ones, alike everywhere.

Energy is the share of a change that lies in the span of the pool, over K / weights: for
independent directions it is 1 on average, with a spread of sqrt(2 / K) over draws.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

import numpy as np
import torch

from clients.tasks import load_task
from fedcore.params import Params
from fedcore.pool import Pool, project
from fedcore.ring import ONE
from sims.bench.frame import Options, Row, counted, versus

COLUMN = 1024  # rows and columns of a matrix of which one column moves
SIZES = (256, 1024, 4096)  # of the pool
TIES = ("shift", "tile", "flip")  # the default first
NUMBERS = 1_000_003
KINDS = ("hadamard", "gaussian")
OLD, ANY = "default", ""  # instruction sets, in torch's words
PROGRAM = """
import sys
from fedcore.pool import Pool, direction
for kind, path in zip(sys.argv[2::2], sys.argv[3::2]):
    direction(Pool(1024, seed=7, kind=kind), 3, int(sys.argv[1])).numpy().tofile(path)
"""


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    options.say("directions: what they hold of a change")
    yield column_row(30 if options.quick else 200)
    change = gradient()
    for size in (1024,) if options.quick else SIZES:
        yield gradient_row(change, size, 10 if options.quick else 60)
    yield portable_row()


def column_row(draws: int) -> Row:
    """Return how far energy varies where one column of a wide matrix moves."""
    change = torch.zeros(COLUMN, COLUMN)
    change[:, 7] = 1.0
    found = {tie: _energies(COLUMN, tie, {"w": change}, draws) for tie in TIES}
    spread = {tie: stdev(each) / fmean(each) for tie, each in found.items()}
    note = (
        f"spread over {draws} draws of the energy that a pool holds, over its mean; "
        f"flip {spread['flip']:.2f}; independent directions {(2 / COLUMN) ** 0.5:.3f}"
    )
    work = f"one column of {COLUMN} x {COLUMN}, K = {COLUMN}"
    name = "shift vs tile, a hot column"
    return versus(name, work, spread["shift"], spread["tile"], "1", note)


def gradient() -> Params:
    """Return the gradient of a language model of 0.85 M weights on one batch."""
    flags = {"window": 32, "batch_size": 8, "most_held_out": 1}
    dataset = load_task("lm-shakespeare", flags)
    task = dataset.whole()
    model = task.model()
    model.load_state_dict(dataset.start(seed=0), strict=False)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = task.loss(model, next(task.batches(0)))
    found = torch.autograd.grad(loss, list(weights.values()))
    return dict(zip(weights, found, strict=True))


def gradient_row(change: Params, size: int, draws: int) -> Row:
    """Return how far the energy of a real gradient varies from draw to draw."""
    found = {tie: _energies(size, tie, change, draws) for tie in TIES}
    told = (f"{t} {fmean(each):.2f} ± {stdev(each):.3f}" for t, each in found.items())
    name, spread = f"energy of a gradient, K = {size}", stdev(found["shift"])
    work = f"0.85 M-parameter LM, {draws} draws; other: independent directions"
    return versus(name, work, spread, (2 / size) ** 0.5, "1", "; ".join(told))


def _energies(size: int, tie: str, change: Params, draws: int) -> list[float]:
    pool = Pool(size, tie=tie, seed=1)
    whole = sum(float(t.double().square().sum()) for t in change.values())
    found = [project(pool, change, epoch=epoch).double() for epoch in range(draws)]
    return [float((line / ONE).square().sum()) / size / whole for line in found]


def portable_row() -> Row:
    """Return how many numbers of a direction depend on the instruction set."""
    with TemporaryDirectory(prefix="fedcore-") as folder:
        old, new = (_drawn(Path(folder) / f"{s}.", s) for s in (OLD, ANY))
    ours, other = (100 * float((a != b).mean()) for a, b in zip(old, new, strict=True))
    name = "pool, Hadamard vs pool, Gaussian, other bits"
    work = f"one direction of {NUMBERS} weights, with two instruction sets"
    note = "other: torch.randn, without vector instructions and with this processor's"
    return counted(name, work, ours, other, "% of numbers", note)


def _drawn(path: Path, instructions: str) -> list[np.ndarray]:
    """Return a direction of each kind, drawn by a program of its own."""
    files = {kind: f"{path}{kind}" for kind in KINDS}
    words = [word for pair in files.items() for word in pair]
    chosen = {"ATEN_CPU_CAPABILITY": instructions} if instructions else {}
    subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, str(NUMBERS), *words],
        env={**os.environ, **chosen},
        check=True,
    )
    return [np.fromfile(file, np.float32) for file in files.values()]
