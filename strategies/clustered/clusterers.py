"""Ways to group directions, each given the matrix that its definition asks for.

    name            wants                     who says how many clusters
    hdbscan         distances                 it does
    agglomerative   distances                 a threshold, or you
    affinity        similarities              it does
    kmeans          directions of length 1    you
    mean-shift      directions of length 1    it does

A distance in place of a similarity, or the reverse, still gives labels: of the peers
that differ most. Published comparisons have been lost that way (see
``docs/strategies/clustered.md``), so each class here picks its own matrix from
``Angles``, and nobody else does.

Labels are whole numbers; -1 is noise, a member of no cluster. scikit-learn is loaded
when a clusterer is first used.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fedcore.errors import ConfigError
from strategies.clustered.angles import Angles
from strategies.limits import counts

Linkage = Literal["average", "complete", "single"]


class Clusterer(Protocol):
    """A way to group directions."""

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        """Return the cluster of each direction, or -1; there are two or more.

        Args:
            angles: n >= 2 directions and all angles between them.
            seed: of draws, where there are any.
        """
        ...


@dataclass(frozen=True, slots=True)
class HDBSCAN:
    """Dense regions at every scale; says itself how many there are, and who is noise.

    Source:
        Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical
        Density Estimates", PAKDD 2013.

    Attributes:
        smallest: members of a cluster at least, >= 2; 0 takes a fifth of the peers.
    """

    smallest: int = 0

    def __post_init__(self) -> None:
        if self.smallest < 0 or self.smallest == 1:
            raise ConfigError(f"smallest must be 0, or 2 and more: {self.smallest}")

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        count = len(angles.units)
        smallest = self.smallest or max(2, count // 5)
        if count < 2 * smallest:
            return [0] * count  # no room for two clusters
        from sklearn import cluster

        model = cluster.HDBSCAN(
            min_cluster_size=smallest, metric="precomputed", copy=True
        )
        return _fitted(model, angles.distance.numpy())


@dataclass(frozen=True, slots=True)
class Agglomerative:
    """Join the two closest clusters again and again.

    Attributes:
        clusters: how many are left, >= 1; 0 stops at ``threshold`` instead.
        threshold: greatest distance, 1 - cosine, at which clusters are joined, in
            (0, 2).
        linkage: distance of two clusters: between members on average, at most
            (complete), or at least (single).
    """

    clusters: int = 0
    threshold: float = 0.7
    linkage: Linkage = "average"

    def __post_init__(self) -> None:
        counts(0, clusters=self.clusters)
        if not 0 < self.threshold < 2:
            raise ConfigError(f"threshold must be in (0, 2): {self.threshold}")

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        from sklearn import cluster

        count = min(self.clusters, len(angles.units)) or None
        model = cluster.AgglomerativeClustering(
            n_clusters=count,
            distance_threshold=None if count else self.threshold,
            metric="precomputed",
            linkage=self.linkage,
        )
        return _fitted(model, angles.distance.numpy())


@dataclass(frozen=True, slots=True)
class Affinity:
    """Peers vote for the ones that stand for them.

    Source:
        Frey and Dueck, "Clustering by Passing Messages Between Data Points", Science
        2007.

    Attributes:
        damping: share of the old message that is kept, in [0.5, 1).
    """

    damping: float = 0.7

    def __post_init__(self) -> None:
        if not 0.5 <= self.damping < 1:
            raise ConfigError(f"damping must be in [0.5, 1): {self.damping}")

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        from sklearn import cluster

        model = cluster.AffinityPropagation(
            damping=self.damping,
            max_iter=1000,
            affinity="precomputed",
            random_state=seed % 2**32,
        )
        return _fitted(model, angles.similarity.numpy())


@dataclass(frozen=True, slots=True)
class KMeans:
    """The centres from which all directions are least far, squared.

    Attributes:
        clusters: how many centres, >= 1.
    """

    clusters: int = 3

    def __post_init__(self) -> None:
        counts(1, clusters=self.clusters)

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        from sklearn import cluster

        count = min(self.clusters, len(angles.units))
        model = cluster.KMeans(count, n_init=10, random_state=seed % 2**32)
        return _fitted(model, angles.units.numpy())


@dataclass(frozen=True, slots=True)
class MeanShift:
    """Walk from every direction to where they are densest.

    Source:
        Comaniciu and Meer, "Mean Shift: A Robust Approach Toward Feature Space
        Analysis", IEEE TPAMI 2002.

    Attributes:
        quantile: the window reaches as many of the others, in (0, 1].
    """

    quantile: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"quantile must be in (0, 1]: {self.quantile}")

    def labels(self, angles: Angles, seed: int) -> Sequence[int]:
        from sklearn import cluster

        rows = angles.units.numpy()
        reach = cluster.estimate_bandwidth(rows, quantile=self.quantile)
        if not reach:  # the nearest of all are equal, and a window needs a width
            reach = 1e-6
        return _fitted(cluster.MeanShift(bandwidth=reach), rows)


CLUSTERERS: dict[str, type] = {
    "affinity": Affinity,
    "agglomerative": Agglomerative,
    "hdbscan": HDBSCAN,
    "kmeans": KMeans,
    "mean-shift": MeanShift,
}


def _fitted(model: Any, matrix: Any) -> list[int]:
    with _in_silence():
        return [int(label) for label in model.fit(matrix).labels_]


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep scikit-learn from warning: equal directions are no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
