"""Sattler's clustered federated learning: divide in two where training has stalled.

Source:
    Sattler, Müller and Samek, "Clustered Federated Learning: Model-Agnostic
    Distributed Multi-Task Optimization Under Privacy Constraints", IEEE TNNLS 2021,
    Algorithms 1 and 2. https://arxiv.org/abs/1910.01991

Notation, paper -> here:
    Δθ_i            update of i                 ``update.payload``
    α_ij            cos(Δθ_i, Δθ_j)             ``Angles.similarity``
    ε1, ε2          stationarity                ``still``, ``moving``
    α_cross^max     largest α across the cut    of ``bipartition``
    γ_max           how sure to be              ``gamma``

A cluster whose mean update is short while some member's is long has reached a point
that is good for all and best for none: it is cut so that the most similar pair of
peers across the cut is as little similar as possible.

Departures:
    The cut is found by single linkage on distances, which is the paper's Algorithm 1.
    The authors' code takes complete linkage; ``linkage`` chooses.

    Lengths and angles are those of sketches and of last known directions, as in
    ``OCFL``; lengths are off by about a sixteenth. The mean is weighted by examples.
    Only directions from the cluster's own model count.

    ``cooldown`` rounds pass before a cluster may be cut, so that a model has time to
    come to rest. Clusters of two stay together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.clustered.angles import Angles
from strategies.clustered.clusterers import Agglomerative, Linkage
from strategies.clustered.clusters import (
    Clusters,
    beginning,
    divided,
    folded,
    listened,
    work_for,
)
from strategies.clustered.noise import settled
from strategies.limits import counts, local_work, positive, shares


def bipartition(angles: Angles, linkage: Linkage = "single") -> list[int]:
    """Return 0 or 1 for each of n >= 2 directions, as little alike as possible.

    With single linkage, no other cut has a smaller largest cosine across it.
    """
    labels = Agglomerative(clusters=2, linkage=linkage).labels(angles, seed=0)
    return settled(labels, angles, "single")


def parted(angles: Angles, labels: Sequence[int]) -> float:
    """Return sqrt((1 - α) / 2) in [0, 1], of the largest cosine α across the cut."""
    side = torch.tensor(labels)
    across = side[:, None] != side
    return sqrt((1 - float(angles.similarity[across].max())) / 2)


@dataclass(frozen=True, slots=True)
class SattlerCFL:
    """One model per cluster, and clusters cut in two where they have come to rest.

    Attributes:
        still: ε1: the mean difference is shorter than this, > 0, in units of the
            model's weights.
        moving: ε2: some member's difference is longer than this, > 0.
        gamma: least sqrt((1 - α) / 2) of a cut, in [0, 1); 0 makes every cut.
        cooldown: rounds before a new cluster may be cut, >= 1.
        linkage: how the cut is found; ``single`` is the paper's.
        sketch: numbers kept of a direction; 0 keeps whole directions.
        seed: of the sketch.
        server_lr: step along a cluster's mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    still: float = 0.4
    moving: float = 0.3
    gamma: float = 0.55
    cooldown: int = 3
    linkage: Linkage = "single"
    sketch: int = 256
    seed: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"

    def __post_init__(self) -> None:
        positive(still=self.still, moving=self.moving, server_lr=self.server_lr)
        shares(gamma=self.gamma)
        counts(1, cooldown=self.cooldown)
        counts(0, sketch=self.sketch)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Clusters:
        return beginning(params)

    def work(self, state: Clusters, peer: PeerId) -> Work:
        return work_for(state, peer, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Clusters, updates: Sequence[Update]) -> Clusters:
        state = listened(state, updates, self.sketch, self.seed)
        for cluster in state.living():
            if state.version - state.clusters[cluster].born >= self.cooldown:
                state = self._cut_if_at_rest(state, cluster)
        return folded(state, updates, self.server_lr)

    def _cut_if_at_rest(self, state: Clusters, cluster: int) -> Clusters:
        peers = state.known(cluster)
        if len(peers) <= 2 or not self._at_rest(state, peers):
            return state
        angles = state.angles(peers)
        labels = bipartition(angles, self.linkage)
        if self.gamma and parted(angles, labels) <= self.gamma:
            return state
        return divided(state, cluster, peers, labels)

    def _at_rest(self, state: Clusters, peers: Sequence[PeerId]) -> bool:
        rows = torch.stack([state.heard[peer].sketch for peer in peers])
        weights = torch.tensor([float(state.heard[p].examples) for p in peers])
        mean = (rows * weights[:, None].double()).sum(dim=0) / float(weights.sum())
        longest = float(rows.square().sum(dim=1).max().sqrt())
        return float(mean.square().sum().sqrt()) < self.still and longest > self.moving
