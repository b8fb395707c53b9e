"""Local SGD: the inner loop of FedAvg and its kin."""

from collections.abc import Sequence
from dataclasses import dataclass

from clients.trainers.local import cohort_of, descend, descend_together
from clients.trainers.method import Method
from clients.trainers.plan import Plan
from clients.trainers.rules import Momentum
from clients.trainers.schedule import Schedule
from fedcore.config import choice
from fedcore.errors import ConfigError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task


@dataclass(frozen=True, slots=True)
class SGD:
    """Take the steps that the work asks for and return how far the model moved.

    Obeys what comes with the work: a step size, FedProx's pull, SCAFFOLD's correction
    (``clients.trainers.terms``).

    Attributes:
        lr: step size, > 0.
        momentum: share of the last move that is kept, in [0, 1).
        nesterov: look ahead along the kept move; needs ``momentum``.
        weight_decay: multiple of the weights added to the gradient, >= 0.
        clip_norm: largest L2 norm of one gradient; 0 for no limit.
        schedule: how ``lr`` changes from round to round.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
    """

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    schedule: Schedule = choice("clients.trainers.schedule:SCHEDULES", "constant")
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.method()  # checks what both trainers share
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"momentum must be in [0, 1): {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs momentum > 0")

    def method(self) -> Method:
        """Return what this trainer shares with every other one."""
        return Method(
            self.lr, self.weight_decay, self.clip_norm, self.schedule, self.device
        )

    def rule(self, work: Work) -> Momentum:
        """Return a fresh rule for ``work``."""
        rate = self.method().rate(work)
        return Momentum(rate, self.momentum, self.nesterov, self.weight_decay)

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        return descend(task, work, peer, self.method(), self.rule(work))

    def cohort(self, task: Task, work: Work) -> Plan | None:
        """Return the plan if jobs with the same one and version may train together."""
        return None if self.momentum else cohort_of(task, work, self.method())

    def together(
        self, jobs: Sequence[tuple[Task, Work, PeerId]], plan: Plan
    ) -> list[Update]:
        """Train jobs with one ``cohort`` and version at once, each to its own bits."""
        rule = self.rule(jobs[0][1])
        return descend_together(jobs, plan, self.method(), rule)
