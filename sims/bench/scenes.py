"""The problems on which strategies are watched, and which strategy meets which."""

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
        "digits, 10 clients (Dirichlet 0.3), 10 % labelled, 5 % more every 6th round",
        (*TEN, "partition=dirichlet", "partition.alpha=0.3", "run.rounds=60"),
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
TWO_LIARS = (("strategy.attackers=2",),)
QUERIES = ("strategy.cycle=5", "strategy.labelled=0.1", "strategy.more=0.05")

RIVALS: Mapping[str, Entry] = {
    "fedavg": Entry(""),
    TUNED: Entry("", AHEAD),
    "kafal, random queries": Entry("", (), (*QUERIES, "strategy.query=random")),
    "gradient-coding, uncoded": Entry("", AHEAD, ("strategy.stragglers=0",)),
}


def _ahead(*settings: str) -> list[tuple[str, ...]]:
    """Return each of ``settings`` with every server step of ``AHEAD``."""
    return [(setting, *step) for setting in settings for step in AHEAD]


ENTRIES: Mapping[str, Entry] = {
    "fedprox": Entry(
        "unlike", _ahead("strategy.mu=0.01", "strategy.mu=0.1"), (), TUNED
    ),
    "fedavgm": Entry("unlike", [("strategy.server_lr=0.3",), ()], (), TUNED),
    "fedadagrad": Entry("unlike", GAINS, (), TUNED),
    "fedadam": Entry("unlike", GAINS, (), TUNED),
    "fedyogi": Entry("unlike", GAINS, (), TUNED),
    "scaffold": Entry("unlike", AHEAD, (), TUNED),
    "fedamd": Entry(
        "unlike",
        _ahead("strategy.rule=sequential", "strategy.rule=constant"),
        (),
        TUNED,
    ),
    "fedld": Entry(
        "unlike", _ahead("strategy.rescale=false", "strategy.rescale=true"), (), TUNED
    ),
    "fedspine": Entry("unlike", AHEAD, (), TUNED),
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
    "knfu": Entry("own"),
    "kafal": Entry("few labels", (), QUERIES, "kafal, random queries"),
    "fedasync": Entry(
        "speeds",
        [(f"strategy.gain={gain}",) for gain in (0.3, 0.6, 1)],
        rival=TUNED,
    ),
    "fedbuff": Entry("speeds", AHEAD, rival=TUNED),
    "fedcadence": Entry(
        "speeds", [(f"strategy.gain={gain}",) for gain in (1, 2, 4)], PACED, TUNED
    ),
    "fedcompass": Entry(
        "speeds", [(f"strategy.gain={gain}",) for gain in (1.5, 3, 6)], PACED, TUNED
    ),
    "gradient-coding": Entry("stragglers", AHEAD, rival="gradient-coding, uncoded"),
    "sr-sgc": Entry("stragglers", AHEAD, rival="gradient-coding, uncoded"),
    "m-sgc": Entry("stragglers", AHEAD, rival="gradient-coding, uncoded"),
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
