"""The problems on which strategies are watched, and which strategy meets which.

An entry is called by its strategy, or by its strategy and, after a comma, a variant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer
from sims.bench.watch import WRAPS


@dataclass(frozen=True, slots=True)
class Scene:
    """One problem.

    Attributes:
        title: what is hard about it.
        flags: settings of the run.
        rates: step sizes of the trainer to choose from.
        every: rounds between points.
        own: clients' own accuracy counts, not that of the one model.
        horizon_s: simulated seconds of the run; 0 where rounds count.
        wrap: what is put around the trainer (``sims.bench.watch.WRAPS``).
    """

    title: str
    flags: tuple[str, ...]
    rates: Sequence[float] = (0.1, 0.3, 1.0)
    every: int = 1
    own: bool = False
    horizon_s: float = 0.0
    wrap: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A strategy in its scene.

    Attributes:
        scene: name of the scene.
        grid: settings of its own to choose from, each a tuple of ``--set`` words.
        flags: settings it always has there.
        rival: whom it meets: a key of ``RIVALS``.
    """

    scene: str
    grid: Sequence[tuple[str, ...]] = ()
    flags: tuple[str, ...] = ()
    rival: str = "fedavg"


DIGITS = ("task.name=digits", "run.personal=0")
TEN = (*DIGITS, "run.clients=10")

SCENES: Mapping[str, Scene] = {
    "unlike": Scene(
        "digits, 10 clients with unlike classes (Dirichlet 0.1), 40 rounds",
        (*TEN, "partition=dirichlet", "partition.alpha=0.1", "run.rounds=40"),
    ),
    "half": Scene(
        "digits, 20 clients (Dirichlet 0.1), 10 of them a round, 40 rounds",
        (
            *DIGITS,
            "run.clients=20",
            "pacer.cohort=10",
            "partition=dirichlet",
            "partition.alpha=0.1",
            "run.rounds=40",
        ),
    ),
    "attacked": Scene(
        "digits, 10 clients, 2 send the opposite ten times as long, 40 rounds",
        (*TEN, "partition=dirichlet", "partition.alpha=1.0", "run.rounds=40"),
        wrap="two liars",
    ),
    "concepts": Scene(
        "digits, 15 clients in 3 groups that name the classes differently, 40 rounds",
        (*DIGITS, "run.clients=15", "partition=concepts", "run.rounds=40"),
        every=4,
        own=True,
    ),
    "own": Scene(
        "digits, 10 clients with unlike classes (Dirichlet 0.1), each for itself",
        (*TEN, "partition=dirichlet", "partition.alpha=0.1", "run.rounds=40"),
        every=4,
        own=True,
    ),
    "own, alike": Scene(
        "digits, 10 clients that are nearly alike (Dirichlet 10), each for itself",
        (*TEN, "partition=dirichlet", "partition.alpha=10", "run.rounds=40"),
        every=4,
        own=True,
    ),
    "uplinks": Scene(
        "digits, 10 clients (Dirichlet 0.5) that send 1 kB/s (lognormal), 1000 s",
        (
            *TEN,
            "partition=dirichlet",
            "partition.alpha=0.5",
            "network=lognormal",
            "network.up_bytes_per_s=1000",
            "run.rounds=100000",
        ),
        horizon_s=1000.0,
    ),
    "speeds": Scene(
        "digits, 10 clients with 3 to 5 classes, exponential speeds, 600 s",
        (
            *TEN,
            "partition=class-draw",
            "devices=exponential",
            "strategy.steps=20",
            "run.rounds=100000",
        ),
        rates=(0.1, 0.3),
        every=5,
        horizon_s=600.0,
    ),
    "few labels": Scene(
        "digits, 10 clients (Dirichlet 0.3), from 10 to 35 % labelled in 35 rounds",
        (
            *TEN,
            "partition=dirichlet",
            "partition.alpha=0.3",
            "strategy.epochs=10",
            "run.rounds=35",
        ),
    ),
    "probes": Scene(
        "digits, 5 clients (Dirichlet 1), 20 steps a round, forward passes only",
        (
            *DIGITS,
            "run.clients=5",
            "partition=dirichlet",
            "partition.alpha=1",
            "strategy.steps=20",
            "run.rounds=40",
        ),
        rates=(0.1,),
        every=2,
    ),
    "stragglers": Scene(
        "digits, 10 trusted workers with copies of all rows, jittered speeds, 300 s",
        (
            *TEN,
            "partition=replicated",
            "devices=exponential",
            "devices.jitter=0.5",
            "run.rounds=100000",
        ),
        rates=(0.1,),
        every=10,
        horizon_s=300.0,
    ),
}

GAINS = tuple((f"strategy.server_lr={lr}",) for lr in (0.03, 0.1, 0.3))
AHEAD = tuple((f"strategy.server_lr={lr}",) for lr in (1, 2, 4))
PACED = ("pacer.min_steps=4", "pacer.max_steps=20")  # no more batches than others
TUNED = "fedavg, tuned ahead"
RANDOM = "kafal, random queries, plain loss"
UNCODED = "gradient-coding, uncoded"
GAINED = tuple((f"strategy.gain={gain}",) for gain in (1, 2, 4))
EVENING_0 = (*PACED, "strategy.evening=0")
EVENING_1 = (*PACED, "strategy.evening=1")
OPTB = ("strategy.rule=optb", "strategy.cohort=10")
PROBED = tuple((f"strategy.lr={lr}",) for lr in (0.003, 0.01, 0.03))
TWO_LIARS = (("strategy.attackers=2",),)
TWICE = ("strategy.distill=2",)
SHARED = (*TWICE, "strategy.beta=0")
ALONE = ("strategy.distill=0",)
RANK_8 = ("strategy.ranks=1", "strategy.ratios=1", "strategy.max_ratio=0")
QUERIES = ("strategy.cycle=5", "strategy.labelled=0.1", "strategy.more=0.05")

RIVALS: Mapping[str, Entry] = {
    "fedavg": Entry(""),
    TUNED: Entry("", AHEAD),
    RANDOM: Entry("", (), (*QUERIES, "strategy.query=random", "strategy.loss=plain")),
    UNCODED: Entry("", AHEAD, ("strategy.stragglers=0",)),
    "mezo": Entry("", PROBED),
    "fedkseed": Entry("", PROBED),
}


def _ahead(*settings: str) -> list[tuple[str, ...]]:
    """Return each of ``settings`` with every server step of ``AHEAD``."""
    return [(setting, *step) for setting in settings for step in AHEAD]


def _queries(query: str, loss: str) -> Entry:
    """Return KAFAL where labels are scarce, with that way of choosing and loss."""
    flags = (*QUERIES, f"strategy.query={query}", f"strategy.loss={loss}")
    return Entry("few labels", (), flags, RANDOM)


ENTRIES: Mapping[str, Entry] = {
    "fedprox": Entry(
        "unlike", _ahead("strategy.mu=0.01", "strategy.mu=0.1"), (), TUNED
    ),
    "fedavgm": Entry("unlike", [("strategy.server_lr=0.3",), ()], (), TUNED),
    "fedadagrad": Entry("unlike", GAINS, (), TUNED),
    "fedadam": Entry("unlike", GAINS, (), TUNED),
    "fedyogi": Entry("unlike", GAINS, (), TUNED),
    "scaffold": Entry("unlike", AHEAD, (), TUNED),
    "scaffold, half the clients": Entry("half", AHEAD, (), TUNED),
    "fedamd": Entry("half", AHEAD, ("strategy.rule=sequential",), TUNED),
    "fedamd, constant": Entry("half", AHEAD, ("strategy.rule=constant",), TUNED),
    "fedamd, optb": Entry("half", AHEAD, OPTB, TUNED),
    "fedld": Entry("unlike", AHEAD, (), TUNED),
    "fedld, rescaled": Entry("unlike", AHEAD, ("strategy.rescale=true",), TUNED),
    "fedld, margin only": Entry("unlike", AHEAD, ("strategy.directions=0",), TUNED),
    "fedld, projection only": Entry("unlike", AHEAD, ("strategy.margin=0",), TUNED),
    "fedspine": Entry("unlike", AHEAD, (), TUNED),
    "fedspine, rank 8": Entry("unlike", AHEAD, RANK_8, TUNED),
    "fedspine, slow uplinks": Entry("uplinks", AHEAD, (), TUNED),
    "fedspine, rank 8, slow uplinks": Entry("uplinks", AHEAD, RANK_8, TUNED),
    "flora": Entry("unlike", AHEAD, (), TUNED),
    "flora, 4 ranks": Entry("unlike", AHEAD, ("strategy.ranks=4",), TUNED),
    "lego": Entry("unlike", (), (), TUNED),
    "lego, not reweighted": Entry("unlike", (), ("strategy.reweight=false",), TUNED),
    "median": Entry("attacked"),
    "trimmed-mean": Entry("attacked", TWO_LIARS),
    "krum": Entry("attacked", TWO_LIARS),
    "multi-krum": Entry("attacked", TWO_LIARS),
    "geometric-median": Entry("attacked"),
    "ocfl": Entry("concepts"),
    "adaptive": Entry("concepts"),
    "sattler": Entry("concepts", flags=("strategy.cooldown=5",)),
    "briggs": Entry("concepts"),
    "ifca": Entry("concepts"),
    "knfu": Entry("own", flags=TWICE),
    "knfu, beta 0": Entry("own", flags=SHARED),
    "knfu, alone": Entry("own", flags=ALONE),
    "knfu, alike": Entry("own, alike", flags=TWICE),
    "knfu, beta 0, alike": Entry("own, alike", flags=SHARED),
    "kafal": Entry("few labels", (), QUERIES, RANDOM),
    "kafal, ksas, plain loss": _queries("ksas", "plain"),
    "kafal, entropy, plain loss": _queries("entropy", "plain"),
    "kafal, ksas, balanced loss": _queries("ksas", "balanced"),
    "kafal, random, balanced loss": _queries("random", "balanced"),
    "fedasync": Entry(
        "speeds",
        [(f"strategy.gain={gain}",) for gain in (0.3, 0.6, 1)],
        rival=TUNED,
    ),
    "fedbuff": Entry("speeds", AHEAD, rival=TUNED),
    "fedcadence": Entry("speeds", GAINED, PACED, TUNED),
    "fedcadence, evening 0": Entry("speeds", GAINED, EVENING_0, TUNED),
    "fedcadence, evening 1": Entry("speeds", GAINED, EVENING_1, TUNED),
    "fedcompass": Entry(
        "speeds", [(f"strategy.gain={gain}",) for gain in (1.5, 3, 6)], PACED, TUNED
    ),
    "mezo": Entry("probes", PROBED),
    "fedkseed": Entry("probes", PROBED, rival="mezo"),
    "fedkseed, new pools": Entry("probes", PROBED, ("strategy.rotate=10",), "mezo"),
    "fedkseed-pro": Entry("probes", PROBED, rival="fedkseed"),
    "one-byte": Entry("probes", PROBED, rival="fedkseed"),
    "ferret": Entry("unlike", AHEAD, ("strategy.budget=512",), TUNED),
    "gradient-coding": Entry("stragglers", AHEAD, rival=UNCODED),
    "sr-sgc": Entry("stragglers", AHEAD, rival=UNCODED),
    "m-sgc": Entry("stragglers", AHEAD, rival=UNCODED),
}


@dataclass(frozen=True, slots=True)
class Lying:
    """Two peers send the opposite of what they learned, ten times as long."""

    trainer: Trainer

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        update = self.trainer(task, work, peer)
        if not peer.endswith(("3", "7")):
            return update
        wrong = {name: -10.0 * t for name, t in update.payload.items()}
        return replace(update, payload=wrong)


WRAPS["two liars"] = Lying
