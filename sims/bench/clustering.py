"""Runs of clustered strategies on peers whose true clusters are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any

from clients.tasks import load_task
from clients.tasks.dataset import Dataset, Federation
from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator, Fold, Rules
from fedcore.pacing import Synchronous
from fedcore.strategy import Strategy, peer_name
from sims.bench.camps import APART, CAMPS, OVERLAPPING, SWAPS, few, knowing, swapping
from sims.data.concepts import disagreeing
from sims.data.federate import federate
from sims.data.partition import ByGroup
from sims.engine import make_engine
from sims.runs.personal import Tuning, personal
from sims.runs.spread import spread
from sims.world.virtual import VirtualLink
from strategies.clustered.angles import Angles
from strategies.clustered.clusterers import Clusterer
from strategies.clustered.clusters import Clusters
from strategies.clustered.noise import settled
from strategies.clustered.ocfl import OCFL

PEERS = 15
TRAINER = SGD(lr=0.1)
TUNED_STEPS = 10
NEVER = "round:1000000"


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to put peers into camps, and for how long they learn.

    Attributes:
        name: for people.
        deal: makes the data of a seed.
        batch: rows per batch.
        rounds: of a run.
    """

    name: str
    deal: Callable[[Dataset, int], Dataset]
    batch: int = 32
    rounds: int = 20

    def dataset(self, seed: int) -> Dataset:
        """Return the data that are dealt in ``seed``."""
        return self.deal(_digits(self.batch), seed)


@cache
def _digits(batch: int) -> Dataset:
    return load_task("digits", {"batch_size": batch})


SETTINGS = (
    Setting("classes apart", lambda d, seed: knowing(d, APART, seed)),
    Setting("classes overlap", lambda d, seed: knowing(d, OVERLAPPING, seed)),
    Setting("labels permuted", lambda d, seed: disagreeing(d, CAMPS, seed)),
)
HARD = Setting(
    "two labels swapped, 47 rows a peer",
    lambda d, seed: few(swapping(d, SWAPS, seed), 700, seed),
    batch=8,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended, for its peers.

    Attributes:
        error: one less the mean accuracy, each peer with its own model.
        worst: the same for the worst tenth of the peers.
        tuned: the same as ``error`` after ten more steps of each peer alone.
        rand: adjusted Rand index of the clusters found; 0 where all are together.
        fired: rounds folded before the peers were divided; -1 for never.
    """

    error: float
    worst: float
    tuned: float
    rand: float
    fired: int


@dataclass
class Case:
    """One setting in one seed: data and first model are made once.

    Attributes:
        setting: what is dealt.
        seed: of data, first model and draws.
        cohort: peers that take part in a round.
    """

    setting: Setting
    seed: int
    cohort: int = PEERS
    dataset: Dataset = field(init=False)
    tasks: Federation = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = self.setting.dataset(self.seed)
        self.tasks = federate(self.dataset, ByGroup(), PEERS, self.seed)

    def run(
        self,
        strategy: Strategy[Any],
        rounds: int = 0,
        watch: Callable[[Fold[Any]], None] = lambda fold: None,
    ) -> Any:
        """Return the state of ``strategy`` after ``rounds``, or the setting's."""
        pacer = Synchronous(cohort=self.cohort, quorum=self.cohort, seed=self.seed)
        with make_engine(TRAINER, self.tasks, 1) as engine:
            link = VirtualLink(engine, self.tasks, seed=self.seed)
            coordinator = Coordinator(Rules(strategy, pacer), link, watch=watch)
            start = self.dataset.start(self.seed)
            return coordinator.run(start, rounds or self.setting.rounds)

    def outcome(self, strategy: Strategy[Any], rounds: int = 0) -> Outcome:
        """Run ``strategy`` and judge what every peer got of it."""
        return self.judged(strategy, self.run(strategy, rounds))

    def judged(self, strategy: Strategy[Any], state: Any) -> Outcome:
        """Return what every peer has of ``state``."""
        own = spread(personal(strategy, state, self.tasks))
        tuning = Tuning(TRAINER, TUNED_STEPS)
        tuned = spread(personal(strategy, state, self.tasks, None, tuning))
        return Outcome(
            1 - own["mean"],
            1 - own["worst_tenth"],
            1 - tuned["mean"],
            rand(found(state)),
            getattr(state, "divided", -1),
        )

    def accuracies(self, strategy: Strategy[Any]) -> list[tuple[float, float]]:
        """Return (round, mean accuracy of peers with their own models)."""
        points: list[tuple[float, float]] = []

        def watch(fold: Fold[Any]) -> None:
            if fold.folded:
                figures = spread(personal(strategy, fold.state, self.tasks))
                points.append((float(fold.state.version), figures["mean"]))

        self.run(strategy, watch=watch)
        return points

    def angles(self, rounds: int) -> list[Angles]:
        """Return the angles between all peers in each of ``rounds`` rounds together."""
        seen: list[Angles] = []

        def watch(fold: Fold[Clusters]) -> None:
            if fold.folded:
                seen.append(fold.state.angles(fold.state.known(0)))

        self.run(OCFL(trigger=NEVER, epochs=3), rounds, watch)
        return seen


def found(state: Any) -> list[int]:
    """Return the cluster of each peer; all are together where there is but one."""
    member: Mapping[str, int] = getattr(state, "member", {})
    return [member.get(peer_name(i), 0) for i in range(PEERS)]


def rand(labels: Sequence[int]) -> float:
    """Return the adjusted Rand index of ``labels`` against the camps."""
    from sklearn.metrics import adjusted_rand_score

    truth = [i * CAMPS // PEERS for i in range(PEERS)]
    return float(adjusted_rand_score(truth, labels))


def grouped(clusterer: Clusterer, angles: Angles) -> float:
    """Return the adjusted Rand index of what ``clusterer`` makes of ``angles``."""
    return rand(settled(clusterer.labels(angles, 0), angles, "nearest"))


def first_rise(angles: Sequence[Angles]) -> int:
    """Return the number of the round in which the temperature first rises."""
    heat = [a.temperature() for a in angles]
    rises = (i for i in range(1, len(heat)) if heat[i] > heat[i - 1])
    return next(rises, len(heat) - 1)


def mean(outcomes: Sequence[Outcome], name: str) -> float:
    """Return the mean of figure ``name`` over runs."""
    return fmean(getattr(outcome, name) for outcome in outcomes)
