"""FL+HC: train together for some rounds, then cluster hierarchically, once.

Source:
    Briggs, Fan and Andras, "Federated Learning with Hierarchical Clustering of Local
    Updates to Improve Training on Non-IID Data", IJCNN 2020, Algorithm 1.
    https://arxiv.org/abs/2004.11791

Notation, paper -> here:
    n        rounds before           ``rounds``
    Δw_k     update of k             ``update.payload``
    T        distance threshold      ``threshold``
    L, M     linkage, metric         ``linkage``; the metric is 1 - cosine

It is ``OCFL`` with a fixed round and agglomerative clustering, and shares its
departures: sketches, last known directions, probes for those who come late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.clustered.clusterers import Agglomerative, Linkage
from strategies.clustered.clusters import Clusters
from strategies.clustered.ocfl import OCFL
from strategies.limits import counts


@dataclass(frozen=True, slots=True)
class BriggsHC:
    """One model per cluster of an agglomerative clustering after some rounds.

    Attributes:
        rounds: rounds of training together, >= 1; the last one's updates are
            clustered.
        threshold: greatest distance, 1 - cosine, at which clusters are joined, in
            (0, 2).
        linkage: distance of two clusters: between members on average, at most
            (complete), or at least (single).
        sketch: numbers kept of a direction; 0 keeps whole directions.
        clients: peers to be known before anything is divided; the simulator fills in
            how many there are.
        seed: of the sketch.
        server_lr: step along a cluster's mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    rounds: int = 5
    threshold: float = 0.7
    linkage: Linkage = "average"
    sketch: int = 256
    clients: int = 0
    seed: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"

    def __post_init__(self) -> None:
        counts(1, rounds=self.rounds)
        self._rules()  # checks what both share

    def _rules(self) -> OCFL:
        return OCFL(
            clusterer=Agglomerative(threshold=self.threshold, linkage=self.linkage),
            trigger=f"round:{self.rounds}",
            sketch=self.sketch,
            clients=self.clients,
            seed=self.seed,
            server_lr=self.server_lr,
            steps=self.steps,
            epochs=self.epochs,
        )

    def init(self, params: Params) -> Clusters:
        return self._rules().init(params)

    def work(self, state: Clusters, peer: PeerId) -> Work:
        return self._rules().work(state, peer)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Clusters, updates: Sequence[Update]) -> Clusters:
        return self._rules().apply(state, updates)
