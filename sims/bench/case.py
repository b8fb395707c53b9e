"""The work that every engine does: one federation, described in plain words.

Nothing here needs torch, so that engines in other environments can read it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Weights = Mapping[str, Floats]

SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "mlp": {
        "1.weight": (128, 784),
        "1.bias": (128,),
        "3.weight": (10, 128),
        "3.bias": (10,),
    },
    "tiny": {
        "1.weight": (32, 64),
        "1.bias": (32,),
        "3.weight": (10, 32),
        "3.bias": (10,),
    },
    "cnn": {
        "0.weight": (16, 1, 3, 3),
        "0.bias": (16,),
        "3.weight": (32, 16, 3, 3),
        "3.bias": (32,),
        "7.weight": (10, 800),
        "7.bias": (10,),
    },
    "none": {"0.weight": (1, 1)},
}
INPUT: Mapping[str, tuple[int, ...]] = {
    "mlp": (784,),
    "tiny": (64,),
    "cnn": (1, 28, 28),
    "none": (1,),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One federation to train with FedAvg and plain SGD.

    Attributes:
        model: ``"mlp"`` 784-128-10, ``"tiny"`` 64-32-10, ``"cnn"`` 16-32 channels, or
            ``"none"``: clients answer at once with what they got.
        clients: virtual clients.
        cohort: of them train in each round.
        rows: training examples each client holds; clients share rows where the data
            are fewer.
        folder: where the data and the first weights lie.
    """

    name: str
    model: str
    clients: int
    cohort: int
    rows: int
    folder: str
    batch: int = 32
    epochs: int = 1
    lr: float = 0.1

    @property
    def work(self) -> str:
        """The work in one line."""
        if self.model == "none":
            return f"{self.cohort} no-op clients a round"
        steps = self.epochs * -(-self.rows // self.batch)
        return (
            f"{self.model}, {self.clients} clients x {self.rows} rows, "
            f"{self.cohort} a round, {steps} steps of {self.batch}"
        )

    def rows_of(self, client: int, total: int) -> Ints:
        """Return the row numbers of ``client`` among ``total`` rows."""
        return (client * self.rows + np.arange(self.rows)) % total


@dataclass(frozen=True, slots=True)
class Data:
    """Examples in random order: x float32 (n, d), y int64 (n,)."""

    x: Floats
    y: Ints
    test_x: Floats
    test_y: Ints


def write_data(folder: str, kind: str, data: Data) -> None:
    """Keep ``data`` in ``folder`` for the engines to read."""
    for name in ("x", "y", "test_x", "test_y"):
        np.save(Path(folder) / f"{kind}-{name}.npy", getattr(data, name))


def read_data(case: Case) -> Data:
    """Return the data of ``case``; cases of one kind share them."""
    return _read(case.folder, "tiny" if case.model == "tiny" else "image")


@cache
def _read(folder: str, kind: str) -> Data:
    parts = [
        np.load(Path(folder) / f"{kind}-{name}.npy")
        for name in ("x", "y", "test_x", "test_y")
    ]
    return Data(*parts)


def write_weights(path: Path, weights: Weights) -> None:
    """Keep ``weights`` in an npz file."""
    arrays: dict[str, Any] = {n: np.asarray(w) for n, w in weights.items()}
    np.savez(path, **arrays)


def first_weights(model: str) -> Weights:
    """Return the weights every engine starts from: uniform within 1/sqrt(fan-in)."""
    drawn: dict[str, Floats] = {}
    generator = np.random.Generator(np.random.Philox(key=len(model)))
    for layer, shape in SHAPES[model].items():
        fan_in = np.prod(SHAPES[model][layer.split(".")[0] + ".weight"][1:])
        bound = float(fan_in) ** -0.5
        drawn[layer] = generator.uniform(-bound, bound, shape).astype(np.float32)
    return drawn
