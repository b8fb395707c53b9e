"""The configuration of one simulated run: every key that ``fedcore sim run`` takes.

[task]       what is learned           [pacer]         when answers are folded
[partition]  who holds which examples  [devices]       how fast clients compute
[strategy]   what the server does      [network]       how long messages take
[trainer]    what clients do           [availability]  when clients are there
[privacy]    what clients blur         [gate]          what the server refuses
[run]        how long, how many, seed  [hierarchy]     who sums answers as they come
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedcore.config import (
    Settings,
    build,
    choice,
    from_file,
    from_flags,
    from_flat,
    layered,
)
from fedcore.errors import ConfigError
from fedcore.gate import Gate
from fedcore.hierarchy.aggregate import Hierarchy
from fedcore.hierarchy.eager import pile_size
from fedcore.pacing import Pacer
from fedcore.strategy import Strategy
from fedcore.task import Trainer
from privacy.local import LocalGaussian
from sims.data.partition import Partition
from sims.engine.choose import Kind
from sims.runs.checks import (
    check_cohort,
    check_copies,
    check_corrected,
    check_scheme,
    check_told,
    check_trusted,
    check_votes,
)
from sims.world.availability import AVAILABILITY, Availability
from sims.world.devices import Devices
from sims.world.network import Network
from strategies.scaffold import Scaffold

PACERS = {
    "buffered": "fedcore.pacing:Buffered",
    "cadence": "strategies.cadence_pacer:Cadence",
    "coded": "strategies.coding.pacer:Coded",
    "compass": "strategies.compass_pacer:Compass",
    "synchronous": "fedcore.pacing:Synchronous",
}
PRIVACY = {
    "local-gaussian": "sims.runs.config:LocalNoise",
    "none": "sims.runs.config:NoPrivacy",
}
USUAL_CLIENTS = 10
NOT_BELOW_0 = (
    "clients",
    "workers",
    "checkpoint_every",
    "target",
    "personal",
    "finetune",
)


class Privacy(Protocol):
    """What clients do to their answers before they leave."""

    def around(self, trainer: Trainer, seed: int) -> Trainer:
        """Return ``trainer`` with the mechanism around it."""
        ...


@dataclass(frozen=True, slots=True)
class NoPrivacy:
    """Answers leave as they are."""

    def around(self, trainer: Trainer, seed: int) -> Trainer:
        return trainer


@dataclass(frozen=True, slots=True)
class LocalNoise:
    """Clip every answer and add Gaussian noise (see ``privacy.local``).

    Attributes:
        bound: greatest L2 norm of an answer before noise, > 0.
        noise_multiplier: standard deviation of the noise as a multiple of bound.
    """

    bound: float = 1.0
    noise_multiplier: float = 0.1

    def around(self, trainer: Trainer, seed: int) -> Trainer:
        return LocalGaussian(trainer, self.bound, self.noise_multiplier, seed)


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """What is learned.

    Attributes:
        name: a named task (fedcore data list), or the path of your own .py file.
        settings: what the task's function takes, such as model; task.model is short
            for task.settings.model.
    """

    name: str = "digits"
    settings: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many, and with which seed.

    Attributes:
        rounds: rounds to fold, >= 1.
        clients: clients in the federation; 0 takes every owner of a natural partition.
        seed: from which the partition, the first model and all draws follow.
        workers: processes that train clients; 0 is one per core. Changes no bit.
        engine: how clients are computed; auto picks by model and number of workers.
        eval_every: rounds between evaluations, >= 1; the last round always counts.
        checkpoint_every: rounds between checkpoints; 0 saves after the first round
            and then every ten seconds.
        target: stop when the held-out accuracy reaches it; 0 never stops early.
        personal: clients whose own accuracy is measured at the end, on held-out
            examples like theirs; at most so many, evenly drawn; 0 for none.
        finetune: local batches each of them trains for itself before that; measured
            beside the model as it came.
    """

    rounds: int = 30
    clients: int = USUAL_CLIENTS
    seed: int = 0
    workers: int = 0
    engine: Kind = "auto"
    eval_every: int = 1
    checkpoint_every: int = 0
    target: float = 0.0
    personal: int = 100
    finetune: int = 0

    def __post_init__(self) -> None:
        for key in ("rounds", "eval_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be >= 1, not {getattr(self, key)}")
        for key in NOT_BELOW_0:
            if getattr(self, key) < 0:
                raise ConfigError(f"{key} must be >= 0, not {getattr(self, key)}")
        if self.target > 1:
            raise ConfigError(f"target is a share, at most 1, not {self.target}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All of it; see the module.

    Attributes:
        partition: who holds which examples.
        strategy: what the server does with answers.
        trainer: how clients train.
        pacer: when clients start, and when answers are folded.
        privacy: what clients do to their answers before they leave.
        devices: how fast clients compute, on the virtual clock.
        network: how long messages take, on the virtual clock.
        availability: when clients are there.
    """

    run: Plan = field(default_factory=Plan)
    task: TaskChoice = field(default_factory=TaskChoice)
    partition: Partition = choice("sims.data.partition:PARTITIONS", "iid")
    strategy: Strategy[Any] = choice("strategies:STRATEGIES", "fedavg")
    trainer: Trainer = choice("clients.trainers:TRAINERS", "sgd")
    pacer: Pacer[Any] = choice(PACERS, "synchronous")
    privacy: Privacy = choice(PRIVACY, "none")
    devices: Devices = choice("sims.world.devices:DEVICES", "constant")
    network: Network = choice("sims.world.network:NETWORKS", "ideal")
    availability: Availability = choice(AVAILABILITY, "always")
    gate: Gate = field(default_factory=Gate)
    hierarchy: Hierarchy = field(default_factory=Hierarchy)

    def __post_init__(self) -> None:
        if self.hierarchy.leaves:
            pile_size(self.strategy, self.pacer)
        if self.run.clients:
            check_cohort(self.pacer, self.run.clients)
        check_votes(self.strategy, self.pacer)
        check_corrected(self.strategy, self.trainer)
        check_trusted(self.strategy, self.privacy != NoPrivacy())
        check_told(self.strategy, self.privacy != NoPrivacy())
        check_copies(self.strategy, self.partition)
        check_scheme(self.strategy, self.pacer)


def read(path: Path | None, flags: Sequence[str] = ()) -> RunConfig:
    """Return the configuration in the TOML file ``path``, changed by ``flags``.

    Raises:
        ConfigError: a key, name or value is wrong; says where it was set.
    """
    return configured({} if path is None else from_file(path), from_flags(flags))


def configured(*layers: Settings) -> RunConfig:
    """Return the configuration that ``layers`` of settings make, later ones first.

    Unless they are set, the cohort of a small federation and the seed of its draw
    follow ``[run]``, the quorum what a robust strategy needs, the step of SCAFFOLD,
    which travels with the work, the trainer's ``lr``, and the pacer what the strategy
    is made for (its ``usual``).
    """
    given = list(map(_with_task_settings, layers))
    every = layered(*given)
    parts = {k: v for k, v in every.items() if k.partition(".")[0] in _Head.__slots__}
    return build(RunConfig, layered(_usual(build(_Head, parts), every), *given))


@dataclass(frozen=True, slots=True)
class _Head:
    """The parts on which defaults of other parts depend."""

    run: Plan = field(default_factory=Plan)
    strategy: Strategy[Any] = choice("strategies:STRATEGIES", "fedavg")


def _usual(head: _Head, given: Settings) -> Settings:
    """Return what follows from the rest where the user did not say."""
    named = given.get("pacer.name") or given.get("pacer")
    few = min(USUAL_CLIENTS, head.run.clients or USUAL_CLIENTS)
    fewest = getattr(head.strategy, "fewest", 1)
    made_for: Settings = from_flat(getattr(head.strategy, "usual", {}), "default")
    pacer = named or made_for.get("pacer.name")
    usual: dict[str, int] = {}
    if hasattr(head.strategy, "clients"):
        usual["strategy.clients"] = head.run.clients
    if pacer and pacer.value == "buffered":
        usual |= {"pacer.size": few, "pacer.seed": head.run.seed}
    elif pacer and pacer.value == "coded":
        usual["pacer.cohort"] = head.run.clients or USUAL_CLIENTS
    elif not pacer or pacer.value == "synchronous":
        cohort = str(given["pacer.cohort"].value) if "pacer.cohort" in given else ""
        most = int(cohort) if cohort.isdecimal() else few
        usual |= {"pacer.cohort": few, "pacer.quorum": max(1, min(fewest, most))}
        usual["pacer.seed"] = head.run.seed
    other = named and named.value != _name(made_for)
    own = {
        key: value
        for key, value in made_for.items()
        if not (other and key.startswith("pacer."))
        and key.removesuffix(".name") not in given
    }
    found = {**from_flat(usual, "default"), **own}
    if isinstance(head.strategy, Scaffold) and "trainer.lr" in given:
        found["strategy.local_lr"] = given["trainer.lr"]
    return found


def _name(settings: Settings) -> object:
    """Return the pacer that ``settings`` name, or None."""
    return settings["pacer.name"].value if "pacer.name" in settings else None


def _with_task_settings(settings: Settings) -> Settings:
    """Return ``settings`` with ``task.model`` and the like below ``task.settings``."""

    def moved(key: str) -> str:
        head, _, rest = key.partition(".")
        known = rest in ("", "name") or rest.partition(".")[0] == "settings"
        return key if head != "task" or known else f"task.settings.{rest}"

    return {moved(key): setting for key, setting in settings.items()}
