"""Adaptive personalisation: warm up together, cluster, then learn within clusters.

Source:
    Yeganeh et al., "Adaptive Personlization in Federated Learning for Highly
    Non-i.i.d. Data", 2022. https://arxiv.org/abs/2207.03448

    The paper's text fixes the order of things and little else: neither the length of
    the warm-up nor linkage, threshold and meta-learner could be found. What is here is
    a reconstruction from parts that are each exact: ``OCFL`` with agglomerative
    clustering, and inside clusters one of

    sgd        plain training, as in FedAvg
    reptile    the same, a step of ``server_lr`` < 1 along it. Nichol, Achiam and
               Schulman, "On First-Order Meta-Learning Algorithms", 2018.
               https://arxiv.org/abs/1803.02999
    fomaml     training for what a model becomes after ``inner_steps`` more steps.
               Finn, Abbeel and Levine, ICML 2017, first-order form.
               https://arxiv.org/abs/1703.03400

Departures:
    Peers train plainly until they are divided: directions of ``fomaml`` are those of
    adapted models, and separate clusters less well. ``reptile`` takes whole steps
    until then.

    The fine-tuning that personalises a model leaves no trace here. Whoever evaluates a
    peer lets it train on its own first (``sims.runs.personal.Tuning``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fedcore.config import choice
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.clustered.clusterers import CLUSTERERS, Clusterer
from strategies.clustered.clusters import Clusters
from strategies.clustered.noise import Noise
from strategies.clustered.ocfl import OCFL
from strategies.limits import counts, positive

Inner = Literal["fomaml", "reptile", "sgd"]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Cluster after a warm-up, and learn each cluster's model to be fine-tuned.

    Attributes:
        inner: how peers of a cluster learn: ``sgd``, ``reptile`` or ``fomaml``.
        inner_lr: step of the adaptation that ``fomaml`` trains for, > 0.
        inner_steps: batches of that adaptation, >= 1.
        clusterer: how directions are grouped.
        trigger: when: ``round:k`` after k >= 1 rounds of warm-up, or ``temperature``.
        noise: where those in no cluster go: to the ``nearest`` one, each into one of
            its own (``single``), or all into one (``together``).
        sketch: numbers kept of a direction; 0 keeps whole directions.
        max_age: rounds for which a direction counts; 0 for ever.
        clients: peers to be known before anything is divided; the simulator fills in
            how many there are.
        seed: of the sketch and of the clusterer's draws.
        server_lr: step along a cluster's mean difference, > 0; below 1 for
            ``reptile``, and then only once peers are divided.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    inner: Inner = "sgd"
    inner_lr: float = 0.1
    inner_steps: int = 1
    clusterer: Clusterer = choice(CLUSTERERS, "agglomerative")
    trigger: str = "round:5"
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
        positive(inner_lr=self.inner_lr)
        counts(1, inner_steps=self.inner_steps)
        self._rules()  # checks what both share

    def _rules(self) -> OCFL:
        return OCFL(
            clusterer=self.clusterer,
            trigger=self.trigger,
            noise=self.noise,
            sketch=self.sketch,
            max_age=self.max_age,
            clients=self.clients,
            seed=self.seed,
            server_lr=self.server_lr,
            steps=self.steps,
            epochs=self.epochs,
        )

    def init(self, params: Params) -> Clusters:
        return self._rules().init(params)

    def work(self, state: Clusters, peer: PeerId) -> Work:
        work = self._rules().work(state, peer)
        warm = state.divided < 0 or state.probing(peer)
        if warm or self.inner != "fomaml":
            return work
        asked = {"inner_lr": self.inner_lr, "inner_steps": self.inner_steps}
        return replace(work, hints={**work.hints, "do": "fomaml", **asked})

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Clusters, updates: Sequence[Update]) -> Clusters:
        whole = self.inner == "reptile" and state.divided < 0
        rules = replace(self._rules(), server_lr=1.0) if whole else self._rules()
        return rules.apply(state, updates)
