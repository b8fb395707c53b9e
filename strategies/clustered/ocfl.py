"""OCFL: train together, and divide into clusters once, when peers begin to disagree.

Sources:
    Zuziak et al., "One-Shot Clustering for Federated Learning", IEEE Big Data 2024,
    https://arxiv.org/abs/2503.04231, and "One-Shot Clustering for Federated Learning
    Under Clustering-Agnostic Assumption", 2025, https://arxiv.org/abs/2509.01587

Notation, paper -> here:
    g_i      direction of i        ``state.heard[peer].sketch``, of ``update.payload``
    Γ_ij     1 - cos(g_i, g_j)     ``Angles.distance``
    T        temperature           ``state.temperatures``; |Γ| / sqrt(4 n (n - 1))
    A        clusterer             ``clusterer``
    w_c      model of a cluster    ``state.clusters[c].model``
    η        server step           ``server_lr``

While T falls, peers find more and more to agree on. Its first rise says that what is
left is what they disagree about: then the directions of that round are clustered, once.

Departures:
    Only weights have directions: running statistics of normalisation layers, in which
    all peers agree, made all cosines about 1 in the published code. They are averaged
    within clusters like everything else.

    Of a direction, 256 numbers are kept (``strategies.clustered.sketch``), so that n
    peers cost n * 256 numbers.

    Not everybody takes part in every round: the last direction of each peer counts,
    as long as it is no older than ``max_age`` rounds. A rise is judged over the peers
    that were heard in an earlier round too, since a newcomer is no rise; and nothing
    is divided before ``clients`` peers are known.

    Each clusterer gets the matrix that it is defined on (``clusterers``). The
    published comparison gives affinity propagation distances for similarities, and
    agglomerative clustering similarities for distances.

    Late joiners are placed by one probe (``clusters``); noise is dealt with as
    ``noise`` says; the mean of a cluster is weighted by examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fedcore.config import choice
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.clustered.clusterers import Clusterer
from strategies.clustered.clusters import (
    Clusters,
    beginning,
    divided,
    folded,
    listened,
    work_for,
)
from strategies.clustered.noise import Noise, settled
from strategies.clustered.trigger import TEMPERATURE, due, round_of
from strategies.limits import counts, local_work, positive


@dataclass(frozen=True, slots=True)
class OCFL:
    """One model per cluster, and one division, made when the temperature first rises.

    Attributes:
        clusterer: how directions are grouped.
        trigger: when: ``temperature``, or ``round:k`` after k >= 1 rounds.
        noise: where those in no cluster go: to the ``nearest`` one, each into one of
            its own (``single``), or all into one (``together``, as published).
        sketch: numbers kept of a direction; 0 keeps whole directions.
        max_age: rounds for which a direction counts; 0 for ever.
        clients: peers to be known before anything is divided; the simulator fills in
            how many there are.
        seed: of the sketch and of the clusterer's draws.
        server_lr: step along a cluster's mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    clusterer: Clusterer = choice(
        "strategies.clustered.clusterers:CLUSTERERS", "hdbscan"
    )
    trigger: str = TEMPERATURE
    noise: Noise = "nearest"
    sketch: int = 256
    max_age: int = 0
    clients: int = 0
    seed: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"

    def __post_init__(self) -> None:
        round_of(self.trigger)
        counts(0, sketch=self.sketch, max_age=self.max_age, clients=self.clients)
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Clusters:
        return beginning(params)

    def work(self, state: Clusters, peer: PeerId) -> Work:
        return work_for(state, peer, self.steps, self.epochs)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Clusters, updates: Sequence[Update]) -> Clusters:
        together = state.divided < 0
        told = [u for u in updates if together or state.unplaced(u.peer)]
        state = listened(state, told, self.sketch, self.seed)
        if together:
            state = self._divided_if_due(state)
        return folded(state, updates, self.server_lr)

    def _divided_if_due(self, state: Clusters) -> Clusters:
        peers = state.known(0, self.max_age)
        if not peers:  # all that came is older than max_age
            return state
        angles = state.angles(peers)
        before = [
            i for i, p in enumerate(peers) if state.heard[p].since < state.version
        ]
        rise = due(self.trigger, state, angles.some(before).temperature())
        heat = (*state.temperatures, angles.temperature())
        state = replace(state, temperatures=heat)
        if not rise or len(peers) < max(2, self.clients):
            return state
        labels = self.clusterer.labels(angles, self.seed)
        return divided(state, 0, peers, settled(labels, angles, self.noise))
