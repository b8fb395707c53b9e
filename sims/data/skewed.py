"""Partitioners that make clients differ in what they hold, and in how much of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConfigError
from fedcore.seeds import permutation, words
from sims.data.deal import (
    Labels,
    Rows,
    classes_of,
    deal,
    enough,
    even,
    parts_of,
    positive,
    quotas,
    topped_up,
)
from sims.draws import dirichlets, normals

DRAWS = 1000  # tries before a random draw of classes is called hopeless


@dataclass(frozen=True, slots=True)
class DirichletLabels:
    """Cut each class among the clients in Dirichlet proportions.

    Source: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural
    Networks", ICML 2019, section 4. Departure: where the draw leaves a client with
    too little, the richest give; it is not drawn again, which among many clients
    would never end.

    Attributes:
        alpha: concentration, > 0; small is skewed, 100 is close to iid.
        min_examples: the least that any client holds, >= 1.
    """

    alpha: float = 0.5
    min_examples: int = 1

    def __post_init__(self) -> None:
        positive(self, alpha=self.alpha, min_examples=self.min_examples)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        classes = classes_of(labels)
        enough(len(classes), clients, self.min_examples)
        shape = (int(classes.max()) + 1, clients)
        weights = dirichlets(np.full(shape, self.alpha), "dirichlet", seed).T
        owner = deal(classes, weights, seed)
        return parts_of(topped_up(owner, classes, clients, self.min_examples), clients)


@dataclass(frozen=True, slots=True)
class DirichletSizes:
    """Give everybody the same mix of classes, but Dirichlet amounts of it.

    Attributes:
        alpha: concentration, > 0; small is unequal.
        min_examples: the least that any client holds, >= 1.
    """

    alpha: float = 0.5
    min_examples: int = 1

    def __post_init__(self) -> None:
        positive(self, alpha=self.alpha, min_examples=self.min_examples)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        enough(len(labels), clients, self.min_examples)
        shares = dirichlets(np.full((1, clients), self.alpha), "sizes", seed)[0]
        spare = len(labels) - clients * self.min_examples
        sizes = self.min_examples + quotas(shares, spare)
        owner = np.empty(len(labels), np.int64)
        owner[permutation(len(labels), "iid", seed)] = np.repeat(
            np.arange(clients), sizes
        )
        return parts_of(owner, clients)


@dataclass(frozen=True, slots=True)
class Classes:
    """Sort by class, cut into equal shards, deal each client a few of them.

    Source: McMahan et al., AISTATS 2017, section 3 (200 shards, two per client).

    Attributes:
        per_client: shards of each client, >= 1; it holds about as many classes.
    """

    per_client: int = 2

    def __post_init__(self) -> None:
        positive(self, per_client=self.per_client)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        classes = classes_of(labels)
        enough(len(classes), clients, self.per_client)
        mixed = permutation(len(classes), "rows", seed)
        by_class = mixed[np.argsort(classes[mixed], kind="stable")]
        shards = clients * self.per_client
        dealt = permutation(shards, "shards", seed) // self.per_client
        owner = np.empty_like(classes)
        owner[by_class] = np.repeat(dealt, even(shards, len(classes)))
        return parts_of(owner, clients)


@dataclass(frozen=True, slots=True)
class ClassDraw:
    """Let each client draw its classes; the holders of a class share it unevenly.

    Source: Li et al., "FedCompass", ICLR 2024, class partition. The draw is
    repeated until every class has a holder; shares of a class are |N(10, 3)|.
    Departure: a client left without any row is given one, of any class.

    Attributes:
        low: fewest classes of a client, >= 1.
        high: most classes of a client, >= low.
    """

    low: int = 3
    high: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(
                f"ClassDraw: low is {self.low} and high {self.high}, "
                "but 1 <= low <= high must hold"
            )

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        classes = classes_of(labels)
        enough(len(classes), clients)
        held = self._holders(clients, int(classes.max()) + 1, seed)
        shares = np.abs(10 + 3 * normals(held.size, "shares", seed))
        owner = deal(classes, shares.reshape(held.shape) * held, seed)
        return parts_of(topped_up(owner, classes, clients, 1), clients)

    def _holders(self, clients: int, classes: int, seed: int) -> npt.NDArray[np.bool_]:
        """Return who holds what, (clients, classes), every class by somebody."""
        if self.high > classes:
            raise ConfigError(
                f"ClassDraw: high is {self.high}, but there are {classes} classes"
            )
        spread = np.uint64(self.high - self.low + 1)
        for draw in range(DRAWS if clients * self.high >= classes else 0):
            extra = (words(clients, "how many", seed, draw) % spread).astype(np.int64)
            order = words(clients * classes, "which", seed, draw)
            rank = order.reshape(clients, classes).argsort(1).argsort(1)
            held: npt.NDArray[np.bool_] = rank < (self.low + extra)[:, None]
            if held.any(0).all():
                return held
        raise ConfigError(
            f"ClassDraw: {clients} clients with {self.low} to {self.high} classes each "
            f"do not cover {classes} classes: raise high, or add clients"
        )


@dataclass(frozen=True, slots=True)
class DualDirichlet:
    """Draw how much each client holds, and of what, from two Dirichlet laws.

    Source: Li et al., "FedCompass", ICLR 2024. Client i wants
    ``size_i * mix_ic`` of class c, size ~ Dir(alpha1 / clients), mix_i ~
    Dir(alpha2 * prior); each class is cut in proportion to what is wanted, so
    all rows are used. Departure: nobody is left empty (see ``DirichletLabels``).

    Attributes:
        alpha1: concentration of sizes, > 0; the paper takes the number of clients.
        alpha2: concentration of class mixes, > 0.
    """

    alpha1: float = 8.0
    alpha2: float = 0.5

    def __post_init__(self) -> None:
        positive(self, alpha1=self.alpha1, alpha2=self.alpha2)

    def split(
        self, labels: Labels, groups: Rows | None, clients: int, seed: int
    ) -> list[Rows]:
        classes = classes_of(labels)
        enough(len(classes), clients)
        prior = np.bincount(classes) / len(classes)
        sizes = np.full((1, clients), self.alpha1 / clients)
        mixes = np.tile(self.alpha2 * prior, (clients, 1))
        wanted = dirichlets(sizes, "size", seed).T * dirichlets(mixes, "mix", seed)
        owner = deal(classes, wanted, seed)
        return parts_of(topped_up(owner, classes, clients, 1), clients)
