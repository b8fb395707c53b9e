"""How much an answer still counts that was computed from an older model.

Source:
    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, section 5.2.
    https://arxiv.org/abs/1903.03934

Notation, paper -> here:
    t - τ    rounds folded since the work went out    ``behind``, >= 0
    s(t-τ)   weight in (0, 1], 1 for a fresh answer   ``freshness``

    constant      1
    polynomial    (1 + behind)^-a
    hinge         1 up to b, then 1 / (1 + a (behind - b))
"""

from collections.abc import Sequence
from math import inf
from typing import Literal, Protocol, get_args

from torch import Tensor

from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.strategy import Update

Kind = Literal["constant", "polynomial", "hinge"]


class Ageing(Protocol):
    """A strategy with the three settings of a function of age."""

    @property
    def staleness(self) -> Kind: ...

    @property
    def a(self) -> float: ...

    @property
    def b(self) -> float: ...


def check_ageing(rules: Ageing) -> None:
    """Refuse settings that make no function of age.

    Raises:
        ConfigError: ``staleness`` is unknown, or ``a`` or ``b`` is below 0 or not
            finite.
    """
    kind, known = rules.staleness, get_args(Kind)
    if kind not in known:
        raise ConfigError(f'staleness: no "{kind}"; {nearest(str(kind), known)}')
    for name, value in (("a", rules.a), ("b", rules.b)):
        if not 0 <= value < inf:
            raise ConfigError(f"{name} must be at least 0 and finite, got {value}")


def freshness(rules: Ageing, version: int, update: Update) -> float:
    """Return s of the age of ``update`` when the model has ``version``, in (0, 1]."""
    behind = max(0, version - update.version)
    if rules.staleness == "constant":
        return 1.0
    if rules.staleness == "polynomial":
        return float((1.0 + behind) ** -rules.a)
    return 1.0 if behind <= rules.b else 1.0 / (1.0 + rules.a * (behind - rules.b))


def pulled(params: Params, moves: Sequence[Params], weights: Sequence[float]) -> Params:
    """Return ``params`` plus the sum of ``weights[i] * moves[i]``.

    Summed in float64 in the order given and rounded once. A running variance stays
    at least 0: a stale difference could otherwise take more off than is there.
    """
    moved: dict[str, Tensor] = {}
    for name, t in params.items():
        total = t.double()
        for move, weight in zip(moves, weights, strict=True):
            total = total + move[name].double() * weight
        variance = name.rpartition(".")[2] == "running_var"
        moved[name] = (total.clamp(min=0.0) if variance else total).to(t.dtype)
    return moved
