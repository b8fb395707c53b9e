"""A data set and a partitioner make a federation."""

from collections.abc import Sequence

import numpy as np

from clients.tasks.dataset import Dataset, Federation, Rows
from sims.data.concepts import Concepts
from sims.data.partition import Partition


def federate(
    dataset: Dataset, partition: Partition, clients: int, seed: int
) -> Federation:
    """Return the peers of ``dataset``, cut by ``partition``.

    Where each part has one natural owner, and each owner has held-out rows, peers
    are evaluated on their owner's; otherwise on all. ``dataset.whole()`` always
    evaluates on all.

    Raises:
        ConfigError: the data cannot be cut so.
    """
    if isinstance(partition, Concepts):
        dataset = partition.of(dataset, seed)
    parts = partition.split(dataset.labels, dataset.groups, clients, seed)
    return Federation(dataset, parts, held_out=owners_test_rows(dataset, parts))


def owners_test_rows(dataset: Dataset, parts: Sequence[Rows]) -> list[Rows] | None:
    """Return the held-out rows of each part's owner; None if one has no such rows."""
    owners, test_owners = dataset.groups, dataset.test_groups
    if owners is None or test_owners is None:
        return None
    if any(np.ptp(owners[rows]) for rows in parts):
        return None
    order = np.argsort(test_owners, kind="stable")
    wanted = np.array([owners[rows[0]] for rows in parts])
    first = np.searchsorted(test_owners[order], wanted)
    last = np.searchsorted(test_owners[order], wanted, side="right")
    if bool((first == last).any()):
        return None
    return [order[a:b] for a, b in zip(first, last, strict=True)]
