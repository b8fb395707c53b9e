"""Duty "margin": plain descent on cross entropy plus FedLD's term on the scores."""

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.trainers.around import Around
from clients.trainers.local import descend
from clients.trainers.method import Method
from clients.trainers.rules import Rule
from fedcore.errors import ConfigError, ProtocolError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task

MARGIN_HINTS = frozenset({"do", "margin"})


@dataclass(frozen=True, slots=True)
class Margined(Around):
    """A task whose loss is that of ``task`` plus ``weight`` log(1 + |softmax(z)|²).

    z are the scores of the model for the batch, (n, classes) or (n, classes,
    positions); the norm is one over all their shares, as in the released program.
    """

    weight: float

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss with the term, shape ().

        Raises:
            ConfigError: the task's loss is not cross entropy of the model's scores.
        """
        seen: list[Tensor] = []
        hook = model.register_forward_hook(lambda _m, _x, scores: seen.append(scores))
        try:
            plain = self.task.loss(model, batch)
        finally:
            hook.remove()
        _check_cross_entropy(plain, seen, batch)
        shares = torch.softmax(seen[0], dim=1)
        return plain + self.weight * torch.log1p(shares.square().sum())


def margin(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Descend on the loss with the term; the loss reported includes it.

    Raises:
        ConfigError: the task's loss is not cross entropy of the model's scores.
        ProtocolError: the weight of the term is not a finite number >= 0.
    """
    weight = work.hints.get("margin")
    if not isinstance(weight, int | float) or not 0 <= weight < inf:
        raise ProtocolError(f"hint margin must be a finite number >= 0: {weight!r}")
    hints = {k: v for k, v in work.hints.items() if k not in MARGIN_HINTS}
    plain = replace(work, hints=hints)
    return descend(Margined(task, float(weight)), plain, peer, method, rule)


def _check_cross_entropy(plain: Tensor, seen: list[Tensor], batch: Batch) -> None:
    """Refuse a loss that is not cross entropy of one forward pass.

    Raises:
        ConfigError: says so.
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if len(seen) == 1 and pair and _classes(seen[0], batch[1]):
        again = cross_entropy(seen[0], batch[1])
        if torch.allclose(again, plain, rtol=1e-4, atol=1e-6):
            return
    raise ConfigError(
        "fedld adds its term to classification: the task's batches must be pairs "
        "(x, y) of inputs and class numbers, and its loss cross_entropy(model(x), y). "
        "Set strategy.margin=0 to leave the loss alone, or use another strategy"
    )


def _classes(scores: object, y: object) -> bool:
    """Return whether ``scores`` rate the classes that ``y`` numbers."""
    if not (isinstance(scores, Tensor) and isinstance(y, Tensor)):
        return False
    shaped = scores.ndim >= 2 and scores.shape[:1] + scores.shape[2:] == y.shape
    return shaped and scores.is_floating_point() and y.dtype == torch.int64
