"""Local AdamW, for models that plain SGD trains badly.

Source:
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
    Algorithm 2. https://arxiv.org/abs/1711.05101

Departures: the running means start from zero in every local training; peers keep
nothing between rounds.
"""

from dataclasses import dataclass

from clients.trainers.local import descend
from clients.trainers.method import Method
from clients.trainers.rules import Adam
from clients.trainers.schedule import Schedule
from fedcore.config import choice
from fedcore.errors import ConfigError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task


@dataclass(frozen=True, slots=True)
class AdamW:
    """Take the steps that the work asks for and return how far the model moved.

    Attributes:
        lr: step size, > 0.
        beta1: share of the running mean that is kept, in [0, 1).
        beta2: share of the running mean of squares that is kept, in [0, 1).
        eps: added to the root of the mean of squares, > 0.
        weight_decay: share of the weights lost per step and unit of ``lr``, >= 0.
        clip_norm: largest L2 norm of one gradient; 0 for no limit.
        schedule: how ``lr`` changes from round to round.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    schedule: Schedule = choice("clients.trainers.schedule:SCHEDULES", "constant")
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.method()  # checks what both trainers share
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ConfigError(
                f"beta1 and beta2 must be in [0, 1): {self.beta1}, {self.beta2}"
            )
        if not self.eps > 0.0:
            raise ConfigError(f"eps must be > 0: {self.eps}")

    def method(self) -> Method:
        """Return what this trainer shares with every other one."""
        return Method(
            self.lr, self.weight_decay, self.clip_norm, self.schedule, self.device
        )

    def rule(self, work: Work) -> Adam:
        """Return a fresh rule for ``work``."""
        rate = self.method().rate(work)
        return Adam(rate, self.beta1, self.beta2, self.eps, self.weight_decay)

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        return descend(task, work, peer, self.method(), self.rule(work))
