"""``fedcore bench clustered``: a model per cluster against one for all.

Fifteen peers in three camps learn digits. Every strategy starts from the same model
with the same data and orders of rows, and every peer is judged with its own model on
held-out rows of its own camp. Rows are errors, one less the mean accuracy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from fedcore.strategy import Strategy
from sims.bench.clustering import (
    HARD,
    PEERS,
    SETTINGS,
    Case,
    Outcome,
    Setting,
    first_rise,
    grouped,
    mean,
)
from sims.bench.figures import draw
from sims.bench.frame import Bench, Options, Row
from sims.report.chart import Line, Lines
from strategies.clustered.adaptive import Adaptive
from strategies.clustered.angles import Angles
from strategies.clustered.briggs import BriggsHC
from strategies.clustered.clusterers import (
    HDBSCAN,
    Affinity,
    Agglomerative,
    Clusterer,
    KMeans,
    MeanShift,
)
from strategies.clustered.ifca import IFCA
from strategies.clustered.ocfl import OCFL
from strategies.clustered.sattler import SattlerCFL
from strategies.fedavg import FedAvg

SEEDS, QUICK_SEEDS = 10, 1
EARLY, LONG = 12, 60
EPOCHS = 3

CLUSTERERS: Mapping[str, Clusterer] = {
    "hdbscan": HDBSCAN(),
    "kmeans, k = 3": KMeans(),
    "mean-shift": MeanShift(),
    "agglomerative, k = 3": Agglomerative(clusters=3),
    "affinity": Affinity(),
}
OURS = OCFL(epochs=EPOCHS, clients=PEERS)
RIVALS: Mapping[str, Strategy[Any]] = {
    "fedavg": FedAvg(epochs=EPOCHS),
    "sattler": SattlerCFL(epochs=EPOCHS),
    "briggs": BriggsHC(epochs=EPOCHS),
    "ifca": IFCA(epochs=EPOCHS),
    "adaptive": Adaptive(epochs=EPOCHS),
}
VARIANTS: Mapping[str, Strategy[Any]] = {
    "adaptive, reptile": Adaptive(inner="reptile", server_lr=0.5, epochs=EPOCHS),
    "adaptive, fomaml": Adaptive(inner="fomaml", epochs=EPOCHS),
    "ocfl on whole directions": OCFL(sketch=0, epochs=EPOCHS, clients=PEERS),
}
PUBLISHED: Mapping[
    str, tuple[Clusterer, str]
] = {  # what published comparisons were given
    "affinity": (Affinity(), "distances for similarities"),
    "agglomerative": (Agglomerative(clusters=3), "similarities for distances"),
}

ABOUT = (
    f"{PEERS} peers in three camps of five, digits, a hidden layer of 32, SGD with "
    f"step 0.1, {EPOCHS} epochs a round, 20 rounds; means over the seeds of each row.",
    "Every peer is judged with the model of its own cluster on held-out rows of its "
    "own camp. A row is 1 - accuracy: less is better; accuracies are in the note.",
    "Camps: classes 0-3, 4-6, 7-9 (apart); 0-3, 3-6, 6-9 (overlap); all classes under "
    "three permutations of the labels (permuted).",
    "Rand is the adjusted Rand index of the clusters that were found: 1 is the camps, "
    "0 is chance.",
    "Every clusterer gets the matrix that it is defined on, the baselines' included. "
    "Sattler's thresholds were chosen on seed 0 of these partitions.",
    "Tuned: after ten more steps of each peer on its own.",
)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    torch.set_num_threads(1)  # as every simulation does
    seeds = range(QUICK_SEEDS if options.quick else SEEDS)
    ours: list[Outcome] = []
    variants: dict[str, list[Outcome]] = {name: [] for name in VARIANTS}
    for setting in SETTINGS:
        options.say(setting.name)
        cases = [Case(setting, seed) for seed in seeds]
        mine = [case.outcome(OURS) for case in cases]
        ours += mine
        yield from rival_rows(setting, cases, mine)
        for name, strategy in VARIANTS.items():
            variants[name] += [case.outcome(strategy) for case in cases]
    yield from variant_rows(ours, variants)
    yield from sampled_rows(ours, seeds)
    yield from clusterer_rows(seeds)
    yield from trigger_rows(options, seeds)
    accuracy_figure(options)


BENCH = Bench(
    "a model per cluster against one for all: errors, clusters found", ABOUT, rows
)


def compared(name: str, work: str, ours: float, other: float, note: str) -> Row:
    """Return the row of two errors; no ratio where ours is nought."""
    return Row(name, work, ours, other, other / ours if ours else None, "error", note)


def rival_rows(
    setting: Setting, cases: Sequence[Case], ours: Sequence[Outcome]
) -> Iterator[Row]:
    """Yield OCFL against every other strategy in one setting."""
    work = f"{setting.rounds} rounds, {len(cases)} seeds"
    for name, strategy in RIVALS.items():
        theirs = [case.outcome(strategy) for case in cases]
        yield _against(f"{setting.name}: ocfl vs {name}", work, ours, theirs)
        if name in ("fedavg", "adaptive"):
            yield compared(
                f"{setting.name}: ocfl vs {name}, tuned",
                work,
                mean(ours, "error"),
                mean(theirs, "tuned"),
                f"ocfl tuned as well: {mean(ours, 'tuned'):.3g}",
            )
    long = [case.outcome(RIVALS["fedavg"], LONG) for case in cases]
    yield _against(f"{setting.name}: ocfl vs fedavg, {LONG} rounds", work, ours, long)


def _against(
    name: str, work: str, ours: Sequence[Outcome], theirs: Sequence[Outcome]
) -> Row:
    mine, other = mean(ours, "error"), mean(theirs, "error")
    facts = [
        f"accuracy {1 - mine:.3f} and {1 - other:.3f}, "
        f"{100 * (other - mine):+.1f} points",
        f"worst tenth {1 - mean(ours, 'worst'):.3f} and "
        f"{1 - mean(theirs, 'worst'):.3f}",
        f"Rand {mean(ours, 'rand'):.2f} and {mean(theirs, 'rand'):.2f}",
    ]
    return compared(name, work, mine, other, "; ".join(facts))


def variant_rows(
    ours: Sequence[Outcome], variants: Mapping[str, Sequence[Outcome]]
) -> Iterator[Row]:
    """Yield what changes with the way of learning, and without the sketch."""
    work = "all three settings"
    for name, theirs in variants.items():
        row = _against(f"ocfl vs {name}", work, ours, theirs)
        after = f"{mean(ours, 'tuned'):.3g} and {mean(theirs, 'tuned'):.3g}"
        yield replace(row, note=f"{row.note}; errors tuned {after}")


def sampled_rows(ours: Sequence[Outcome], seeds: Sequence[int]) -> Iterator[Row]:
    """Yield OCFL with a third of the peers in each round, for thrice the rounds."""
    theirs = [
        Case(setting, seed, cohort=PEERS // 3).outcome(OURS, 3 * setting.rounds)
        for setting in SETTINGS
        for seed in seeds
    ]
    name = "ocfl vs ocfl, a third of the peers a round"
    yield _against(name, "60 rounds of 5 against 20 of 15", ours, theirs)


def clusterer_rows(seeds: Sequence[int]) -> Iterator[Row]:
    """Yield what each clusterer, and each published mix-up, makes of the first rise."""
    fired = []
    for setting in SETTINGS:
        for seed in seeds:
            angles = Case(setting, seed).angles(EARLY)
            fired.append(angles[first_rise(angles)])
    work = "all three settings, clustered at the first rise"
    best = 1 - fmean(grouped(CLUSTERERS["hdbscan"], a) for a in fired)
    for name, clusterer in CLUSTERERS.items():
        if name != "hdbscan":
            other = 1 - fmean(grouped(clusterer, a) for a in fired)
            yield _rand_row(f"hdbscan vs {name}", work, best, other)
    for name, (clusterer, mistake) in PUBLISHED.items():
        right = 1 - fmean(grouped(clusterer, a) for a in fired)
        wrong = 1 - fmean(grouped(clusterer, Reversed(a.units)) for a in fired)
        yield _rand_row(f"{name} vs the same given {mistake}", work, right, wrong)


class Reversed(Angles):
    """Angles whose distances and similarities are taken for each other."""

    @property
    def similarity(self) -> Any:
        return Angles(self.units).distance

    @property
    def distance(self) -> Any:
        return Angles(self.units).similarity


def _rand_row(name: str, work: str, ours: float, other: float, note: str = "") -> Row:
    told = f"Rand {1 - ours:.2f} and {1 - other:.2f}"
    ratio = other / ours if ours else None
    return Row(name, work, ours, other, ratio, "1 - Rand", f"{told}{note}")


def trigger_rows(options: Options, seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the first rise against the first round, where that is too early."""
    cases = [Case(HARD, seed) for seed in seeds]
    runs = [case.angles(EARLY) for case in cases]
    work = f"{HARD.name}, {len(cases)} seeds"
    rises = [first_rise(angles) for angles in runs]
    when = f"; {_span(runs)} against round 0"
    for name, clusterer in CLUSTERERS.items():
        at_rise = [grouped(clusterer, a[i]) for a, i in zip(runs, rises, strict=True)]
        at_once = [grouped(clusterer, a[0]) for a in runs]
        ours, other = 1 - fmean(at_rise), 1 - fmean(at_once)
        yield _rand_row(f"{name}: first rise vs round 0", work, ours, other, when)
    mine = [case.outcome(OURS) for case in cases]
    early = OCFL(trigger="round:1", epochs=EPOCHS, clients=PEERS)
    for name, rival in (("ocfl at round 0", early), ("fedavg", RIVALS["fedavg"])):
        theirs = [case.outcome(rival) for case in cases]
        yield _against(f"ocfl vs {name}", work, mine, theirs)
    trigger_figure(options, runs)


def trigger_figure(options: Options, runs: Sequence[Sequence[Angles]]) -> None:
    """Draw temperature and clusters found if peers were divided in that round."""
    rounds = range(EARLY)
    heat = [(i, fmean(run[i].temperature() for run in runs)) for i in rounds]
    lines = [Line.of("temperature", heat)]
    for name in ("hdbscan", "kmeans, k = 3", "affinity"):
        found = [
            fmean(grouped(CLUSTERERS[name], run[i]) for run in runs) for i in rounds
        ]
        lines.append(Line.of(f"Rand, {name}", list(zip(rounds, found, strict=True))))
    note = f"{HARD.name}; {len(runs)} seeds; first rises in {_span(runs)}."
    title = "Temperature, and what clustering in that round would find"
    slug = "bench-clustered-temperature"
    draw(options, Lines(slug, title, note, "round", "", tuple(lines), True))


def _span(runs: Sequence[Sequence[Angles]]) -> str:
    rises = [first_rise(angles) for angles in runs]
    return f"rounds {min(rises)} to {max(rises)}"


def accuracy_figure(options: Options) -> None:
    """Draw the accuracy of peers with their own models, round by round."""
    if options.figures is None:
        return
    case = Case(SETTINGS[-1], 0)
    shown = {"ocfl": OURS, **RIVALS}
    lines = [Line.of(name, case.accuracies(s)) for name, s in shown.items()]
    title = "Accuracy of every peer with its own model"
    note = "Labels permuted in three camps, seed 0; mean over peers."
    slug = "bench-clustered-accuracy"
    draw(options, Lines(slug, title, note, "round", "", tuple(lines), True))
