"""Who holds which examples: ways to cut one data set into the shares of many peers.

Every partitioner is a frozen dataclass with one method, ``split``. It returns one
sorted array of row numbers per client, the same for the same seed; no client is
empty, and no row is dealt twice (but by ``Replicated``). All rows are used unless the
class says otherwise.
``PARTITIONS`` is the registry; ``sims.data.federate`` makes peers of the parts.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedcore.errors import ConfigError
from fedcore.seeds import choose, permutation
from sims.data.concepts import Concepts
from sims.data.deal import (
    Labels,
    Rows,
    by_group,
    by_owner,
    classes_of,
    enough,
    even,
    parts_of,
    positive,
)
from sims.data.replicated import Replicated
from sims.data.skewed import (
    ClassDraw,
    Classes,
    DirichletLabels,
    DirichletSizes,
    DualDirichlet,
)

__all__ = [
    "IID",
    "PARTITIONS",
    "ByGroup",
    "ClassBlocks",
    "ClassDraw",
    "Classes",
    "DirichletLabels",
    "DirichletSizes",
    "DualDirichlet",
    "Natural",
    "Partition",
    "Replicated",
]


class Partition(Protocol):
    """A way to cut a data set."""

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        """Return the row numbers of each client.

        Args:
            labels: the targets, shape (n, ...); class numbers of shape (n,) where
                the partitioner looks at classes.
            groups: the natural owner of each row, shape (n,), or None.
            clients: how many, >= 1.
            seed: names the draw.

        Raises:
            ConfigError: the data cannot be cut so; says why and what to change.
        """
        ...


@dataclass(frozen=True, slots=True)
class IID:
    """Shuffle the rows and deal them evenly.

    Attributes:
        per_client: rows of each client; 0 divides all rows among the clients. With
            a number, the shuffled rows are dealt round and round: some may stay
            unused, or be held by several clients (virtual clients, to test scale).
    """

    per_client: int = 0

    def __post_init__(self) -> None:
        if self.per_client < 0:
            raise ConfigError(f"IID: per_client is {self.per_client}, but must be >= 0")

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        order = permutation(len(labels), "iid", seed)
        if self.per_client:
            enough(len(labels), min(clients, 1), self.per_client)
            places = np.arange(clients * self.per_client) % len(labels)
            return list(np.sort(order[places].reshape(clients, -1), axis=1))
        enough(len(labels), clients)
        owner = np.empty_like(order)
        owner[order] = np.repeat(np.arange(clients), even(clients, len(labels)))
        return parts_of(owner, clients)


@dataclass(frozen=True, slots=True)
class Natural:
    """One client for each natural owner: a user, a writer, a speaking part.

    With fewer clients than owners, some owners are drawn and the rest not used;
    0 clients take every owner. Clients are in order of owner number.

    Attributes:
        min_examples: owners with fewer rows are left out, >= 1.
    """

    min_examples: int = 1

    def __post_init__(self) -> None:
        positive(self, min_examples=self.min_examples)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        owned = by_owner(groups)
        fit = [rows for rows in owned if len(rows) >= self.min_examples]
        if clients < 0 or clients > len(fit) or not fit:
            raise ConfigError(
                f"Natural: {clients} clients asked for, but {len(fit)} owners hold "
                f"{self.min_examples} examples or more: ask for 1 to {len(fit)}, "
                "or 0 for all"
            )
        chosen = (
            choose(len(fit), clients, "natural", seed) if clients else range(len(fit))
        )
        return [fit[owner] for owner in chosen]


@dataclass(frozen=True, slots=True)
class ByGroup:
    """Many clients in each of a few groups, such as concepts; shuffled within one.

    Clients are dealt to groups in order and evenly: of 30 clients and 3 groups,
    the first ten share the first group.
    """

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        return by_group(groups, clients, seed)


@dataclass(frozen=True, slots=True)
class ClassBlocks:
    """Clusters of clients that know different classes.

    Of ten classes and three blocks, the first third of the clients share classes
    0 to 3, the next 4 to 6, and the last 7 to 9.

    Attributes:
        blocks: clusters, >= 1 and at most the number of classes.
    """

    blocks: int = 3

    def __post_init__(self) -> None:
        positive(self, blocks=self.blocks)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        classes = classes_of(labels)
        count = int(classes.max()) + 1
        if self.blocks > count:
            raise ConfigError(
                f"ClassBlocks: {self.blocks} blocks of {count} classes: "
                f"ask for at most {count}"
            )
        return ByGroup().split(labels, classes * self.blocks // count, clients, seed)


PARTITIONS: dict[str, type[Partition]] = {
    "by-group": ByGroup,
    "class-blocks": ClassBlocks,
    "class-draw": ClassDraw,
    "classes": Classes,
    "concepts": Concepts,
    "dirichlet": DirichletLabels,
    "dirichlet-sizes": DirichletSizes,
    "dual-dirichlet": DualDirichlet,
    "iid": IID,
    "natural": Natural,
    "replicated": Replicated,
}
