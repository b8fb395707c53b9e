"""Dealing rows to clients: the exact counting that partitioners share.

The answer of a deal is ``owner``: the client number of every row, shape (n,).
"""

from heapq import heapify, heapreplace
from math import inf

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConfigError
from fedcore.seeds import permutation

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.generic]  # targets of the training rows, shape (n, ...)
Weights = npt.NDArray[np.float64]


def positive(partition: object, **numbers: float) -> None:
    """Refuse settings of ``partition`` that are not finite and above 0.

    Raises:
        ConfigError: one of ``numbers`` is not; names it.
    """
    for name, value in numbers.items():
        if not 0 < value < inf:
            word = type(partition).__name__
            raise ConfigError(f"{word}: {name} is {value}, but must be above 0")


def classes_of(labels: Labels) -> Rows:
    """Return the class of each row, numbered 0, 1, ... without gaps, shape (n,).

    Raises:
        ConfigError: the targets are no single class number per row.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            f"this partition cuts by class, but the targets are {labels.dtype} of "
            f"shape {labels.shape}: use iid, dirichlet-sizes, natural or by-group"
        )
    codes: Rows = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return codes


def enough(rows: int, clients: int, each: int = 1) -> None:
    """Refuse a deal in which somebody would go without.

    Raises:
        ConfigError: ``clients`` is below 1, or there are too few rows for them.
    """
    if clients < 1:
        raise ConfigError(f"cannot deal examples to {clients} clients: give at least 1")
    if rows < clients * each:
        raise ConfigError(
            f"{clients} clients with {each} examples or more each need "
            f"{clients * each} examples, but there are {rows}: ask for at most "
            f"{rows // each} clients, or let them share with partition iid, per_client"
        )


def shuffled(rows: Rows, *path: str | int) -> Rows:
    """Return ``rows`` in the order named by ``path``."""
    mixed: Rows = rows[permutation(len(rows), *path)]
    return mixed


def even(clients: int, total: int) -> Rows:
    """Return how many of ``total`` each client gets; sizes differ by at most one."""
    counts: Rows = np.diff(np.arange(clients + 1) * total // clients)
    return counts


def quotas(weights: Weights, total: int) -> Rows:
    """Return counts that sum to ``total``, in proportion to ``weights`` (clients,).

    Running totals are rounded, not counts, so that ten thousand clients worth a
    tenth of a row each get a thousand rows between them and not none.
    """
    ends = np.cumsum(weights)
    if not ends[-1] > 0:  # all underflowed: nobody is preferred
        return even(len(weights), total)
    cuts = np.floor(ends / ends[-1] * total + 0.5).astype(np.int64)
    cuts[-1] = total
    counts: Rows = np.diff(cuts, prepend=0)
    return counts


def deal(classes: Rows, weights: Weights, seed: int) -> Rows:
    """Return the owner of each row when each class is cut by its own weights.

    Args:
        classes: class of each row, shape (n,).
        weights: the appetite of each client for each class, (clients, classes).
        seed: names the order in which the rows of a class are dealt.
    """
    owner, clients = np.empty_like(classes), np.arange(len(weights))
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes, minlength=weights.shape[1]))
    for c, rows in enumerate(np.split(order, ends[:-1])):
        counts = quotas(weights[:, c], len(rows))
        owner[shuffled(rows, "deal", seed, c)] = np.repeat(clients, counts)
    return owner


def topped_up(owner: Rows, classes: Rows, clients: int, minimum: int) -> Rows:
    """Return ``owner`` after the richest gave to all who hold fewer than ``minimum``.

    Rows are given class by class, so that a client whose rows are all gifts is as
    one-sided as the others. There must be ``clients * minimum`` rows.
    """
    sizes = np.bincount(owner, minlength=clients)
    poor = np.flatnonzero(sizes < minimum)
    if not poor.size:
        return owner
    held = np.split(np.lexsort((classes, owner)), np.cumsum(sizes)[:-1])
    richest = [(-int(n), c) for c, n in enumerate(sizes) if n > minimum]
    heapify(richest)
    after = owner.copy()
    for client in poor:
        need = minimum - int(sizes[client])
        while need:
            size, donor = -richest[0][0], richest[0][1]
            given = min(need, size - minimum)
            after[held[donor][size - given : size]] = client
            heapreplace(richest, (given - size, donor))
            need -= given
    return after


def parts_of(owner: Rows, clients: int) -> list[Rows]:
    """Return the sorted rows of each client; views of one array."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owner, minlength=clients))[:-1])


def by_group(groups: Rows | None, clients: int, seed: int) -> list[Rows]:
    """Return the rows of ``clients`` dealt evenly to the groups; see ``ByGroup``."""
    owned = by_owner(groups)
    if clients < len(owned):
        raise ConfigError(
            f"ByGroup: {clients} clients for {len(owned)} groups: "
            "ask for at least one client per group, or use partition natural"
        )
    parts: list[Rows] = []
    members = even(len(owned), clients)
    for group, (rows, count) in enumerate(zip(owned, members, strict=True)):
        enough(len(rows), int(count))
        mixed = shuffled(rows, "group", seed, group)
        ends = np.cumsum(even(int(count), len(rows)))
        parts += [np.sort(part) for part in np.split(mixed, ends[:-1])]
    return parts


def by_owner(groups: Rows | None) -> list[Rows]:
    """Return the sorted rows of each owner, in order of owner number."""
    if groups is None:
        raise ConfigError(
            "these data know no natural owners: use partition iid or dirichlet, "
            "or give the Dataset `groups`"
        )
    owner = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return parts_of(owner, int(owner.max()) + 1)
