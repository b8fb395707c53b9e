"""Peers that disagree: the same examples under different meanings of the classes.

The standard test of clustered federated learning: no single model can fit two
groups of clients whose labels are permuted differently.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from clients.tasks.dataset import Dataset, Examples
from fedcore.errors import ConfigError
from fedcore.seeds import permutation
from sims.data.deal import Labels, Rows, by_group, classes_of, even, positive


def disagreeing(dataset: Dataset, concepts: int, seed: int) -> Dataset:
    """Return ``dataset`` shuffled into groups that each permute the classes.

    Cut it with partition ``by-group``: the group of a row is its concept, in
    training and held-out rows alike. Concept 0 keeps the classes as they are.

    Args:
        dataset: with one class number per row.
        concepts: how many groups, >= 1.
        seed: names the shuffle and the permutations.

    Raises:
        ConfigError: there are no classes, or no row for some concept.
    """
    count = int(classes_of(dataset.labels).max()) + 1
    if not 1 <= concepts <= len(dataset.test[0]):
        raise ConfigError(f"cannot make {concepts} concepts of {dataset.name!r}")
    meanings = [
        permutation(count, "meaning", seed, concept) if concept else np.arange(count)
        for concept in range(concepts)
    ]
    train_groups = _dealt(len(dataset.train[0]), concepts, "train", seed)
    test_groups = _dealt(len(dataset.test[0]), concepts, "test", seed)
    return replace(
        dataset,
        name=f"{dataset.name}, {concepts} concepts",
        train=_renamed(dataset.train, train_groups, np.stack(meanings)),
        test=_renamed(dataset.test, test_groups, np.stack(meanings)),
        groups=train_groups,
        test_groups=test_groups,
    )


def _dealt(rows: int, concepts: int, *path: str | int) -> Rows:
    """Return the concept of each row, evenly and at random, shape (rows,)."""
    concept = np.repeat(np.arange(concepts), even(concepts, rows))
    dealt: Rows = concept[permutation(rows, "concept", *path)]
    return dealt


def _renamed(examples: Examples, groups: Rows, meanings: Rows) -> Examples:
    x, y = examples
    return x, torch.from_numpy(meanings[groups, y.numpy()])


@dataclass(frozen=True, slots=True)
class Concepts:
    """Groups of clients that disagree on what the classes are called.

    No one model can serve them all. Of 30 clients and 3 concepts, the first ten share
    the first concept, which keeps the classes as they are.

    Attributes:
        concepts: groups of clients, >= 1.
    """

    concepts: int = 3

    def __post_init__(self) -> None:
        positive(self, concepts=self.concepts)

    def of(self, dataset: Dataset, seed: int) -> Dataset:
        """Return ``dataset`` with the classes renamed in each group of rows."""
        return disagreeing(dataset, self.concepts, seed)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        return by_group(groups, clients, seed)
