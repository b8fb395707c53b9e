"""Local SGD: the inner loop of FedAvg and its kin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clients.trainers.local import cohort_of, descend, descend_together
from clients.trainers.method import Method
from clients.trainers.plan import Plan
from clients.trainers.rules import Momentum
from clients.trainers.schedule import Constant, Schedule
from clients.trainers.terms import lr_asked
from fedcore.config import choice
from fedcore.errors import ConfigError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task


@dataclass(frozen=True, slots=True)
class SGD:
    """Take the steps that the work asks for and return how far the model moved.

    Honours FedProx's ``work.hints["mu"]`` and SCAFFOLD's correction in
    ``work.aux`` (see ``clients.trainers.terms``); a step size in
    ``work.hints["lr"]`` takes the place of ``lr`` and ``schedule``.

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

    def rule(self, version: int) -> Momentum:
        """Return a fresh rule for round ``version``."""
        rate = self.lr * self.schedule.factor(version)
        return Momentum(rate, self.momentum, self.nesterov, self.weight_decay)

    def told(self, work: Work) -> "SGD":
        """Return this trainer with the step size that ``work`` asks for, if it does."""
        lr = lr_asked(work)
        return self if lr is None else replace(self, lr=lr, schedule=Constant())

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        own = self.told(work)
        return descend(task, work, peer, own.method(), own.rule(work.version))

    def cohort(self, task: Task, work: Work) -> Plan | None:
        """Return the plan if jobs with the same one and version may train together."""
        return cohort_of(task, work, self.method(), self.rule(work.version))

    def together(
        self, jobs: Sequence[tuple[Task, Work, PeerId]], plan: Plan
    ) -> list[Update]:
        """Train jobs with one ``cohort`` and version at once, each to its own bits."""
        rule = self.rule(jobs[0][1].version)
        return descend_together(jobs, plan, self.method(), rule)
