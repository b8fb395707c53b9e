"""Peers in three camps that learn different things from the same data set.

The camp of a row is its group: cut the data with partition ``by-group``, and every
peer is in one camp and is evaluated on its camp's held-out rows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from clients.tasks.dataset import Dataset, Examples, gathered
from fedcore.errors import ConfigError
from fedcore.seeds import permutation
from sims.data.deal import Rows, even

CAMPS = 3
APART = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
OVERLAPPING = ((0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9))
SWAPS = ((0, 1), (2, 3), (4, 5))


def knowing(dataset: Dataset, camps: Sequence[Sequence[int]], seed: int) -> Dataset:
    """Return ``dataset`` shared out among camps that know different classes.

    Rows of a class that several camps know are dealt to these evenly and at random,
    training and held-out rows alike.

    Args:
        dataset: with one class number per row.
        camps: the classes that each camp knows; each class is known to one at least.
        seed: names the deal.
    """
    train, test = dataset.train[1].numpy(), dataset.test[1].numpy()
    return replace(
        dataset,
        groups=_known(train, camps, "train", seed),
        test_groups=_known(test, camps, "test", seed),
    )


def _known(labels: Rows, camps: Sequence[Sequence[int]], *path: str | int) -> Rows:
    camp = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        knows = [k for k, classes in enumerate(camps) if c in classes]
        if not knows:
            raise ConfigError(f"no camp knows class {c}: add it to one of {camps}")
        order = permutation(len(rows), "camp", int(c), *path)
        camp[rows[order]] = np.repeat(knows, even(len(knows), len(rows)))
    return camp


def swapping(dataset: Dataset, swaps: Sequence[tuple[int, int]], seed: int) -> Dataset:
    """Return ``dataset`` dealt to camps that agree on all classes but two each.

    Args:
        dataset: with one class number per row.
        swaps: the two classes that each camp calls by each other's name.
        seed: names the deal.
    """
    train, groups = _swapped(dataset.train, swaps, "train", seed)
    test, test_groups = _swapped(dataset.test, swaps, "test", seed)
    return replace(
        dataset, train=train, test=test, groups=groups, test_groups=test_groups
    )


def _swapped(
    examples: Examples, swaps: Sequence[tuple[int, int]], *path: str | int
) -> tuple[Examples, Rows]:
    x, y = examples[0], examples[1].numpy()
    sizes = even(len(swaps), len(y))
    camp = np.repeat(np.arange(len(swaps)), sizes)
    camp = camp[permutation(len(y), "swap", *path)]
    named = y.copy()
    for k, (a, b) in enumerate(swaps):
        named[(camp == k) & (y == a)] = b
        named[(camp == k) & (y == b)] = a
    return (x, torch.from_numpy(named)), camp


def few(dataset: Dataset, rows: int, seed: int) -> Dataset:
    """Return ``dataset`` with ``rows`` of its training rows, drawn by ``seed``."""
    kept = np.sort(permutation(len(dataset.train[0]), "few", seed)[:rows])
    groups = None if dataset.groups is None else dataset.groups[kept]
    return replace(dataset, train=gathered(dataset.train, kept), groups=groups)
