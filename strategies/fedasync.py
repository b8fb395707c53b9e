"""FedAsync: mix each peer's model into the server's as it comes.

Source:
    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, Algorithm 1.
    https://arxiv.org/abs/1903.03934

Notation, paper -> here:
    x_t       model                             ``state.params``
    x_new     the peer's model                  ``base + update.payload``
    x_τ       the model it started from         ``base``, ``state.past[update.version]``
    α         mixing weight                     ``gain``
    s(t-τ)    weight of an answer's age         ``freshness(...)``
    ρ         pull towards x_τ at the peer      ``mu``

    x  <-  (1 - α_t) x + α_t x_new,    α_t = α s(t - τ)

Departures:
    Peers send the difference Δ = x_new - x_τ, so that the gate, clipping and noise
    mean the same as for every other strategy. Mixing needs x_τ itself: the server
    keeps the last ``history`` models. For an answer older than that, and for all with
    ``history = 0``, it takes x <- x + α_t Δ, as APPFL does. The two differ by
    α_t (x_τ - x): mixing also pulls the model back to where the peer started. Fresh
    answers give the same either way.

    If a pacer folds several answers at once, the model moves by the mean of what each
    alone would do: in any order the same, and for one answer the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from fedcore.errors import ConfigError
from fedcore.params import Params, add, sub
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts, local_work
from strategies.staleness import Kind, check_ageing, freshness, pulled


@dataclass(frozen=True, slots=True)
class Trail:
    """The model, and those before it.

    Attributes:
        past: the last models by version, ``params`` not among them.
    """

    version: int
    params: Params
    past: Mapping[int, Params] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FedAsync:
    """Mix every answer in at once, the less the older it is.

    Attributes:
        gain: α, weight of a fresh answer's model, in (0, 1].
        staleness: how the weight falls with age (``strategies.staleness``).
        a: how fast it falls, >= 0; not for constant.
        b: rounds of age that cost nothing, >= 0; for hinge.
        history: models kept to mix with, >= 0; each is one model of memory.
        mu: ρ, strength of the peer's pull towards its start, >= 0.
        steps: local batches per work; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per work, >= 1.
    """

    gain: float = 0.6
    staleness: Kind = "polynomial"
    a: float = 0.5
    b: float = 4.0
    history: int = 16
    mu: float = 0.005
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    usual: ClassVar[Mapping[str, Any]] = {"pacer.name": "buffered", "pacer.size": 1}

    def __post_init__(self) -> None:
        if not 0 < self.gain <= 1:
            raise ConfigError(f"gain must be in (0, 1], got {self.gain}")
        check_ageing(self)
        counts(0, history=self.history)
        if not 0 <= self.mu < inf:
            raise ConfigError(f"mu must be at least 0 and finite, got {self.mu}")
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Trail:
        return Trail(0, params)

    def work(self, state: Trail, peer: PeerId) -> Work:
        hints = {"mu": self.mu} if self.mu else {}
        return Work(state.version, state.params, self.steps, self.epochs, hints=hints)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Trail, updates: Sequence[Update]) -> Trail:
        moves = [_move(state, u) for u in updates]
        share = self.gain / len(updates)
        weights = [share * freshness(self, state.version, u) for u in updates]
        params = pulled(state.params, moves, weights)
        past = {**state.past, state.version: state.params}
        oldest = state.version + 1 - self.history
        kept = {version: model for version, model in past.items() if version >= oldest}
        return Trail(state.version + 1, params, kept)


def _move(state: Trail, update: Update) -> Params:
    """Return x_new - x, or the bare difference if x_τ is gone or is x."""
    base = state.past.get(update.version)
    if base is None:
        return update.payload
    return add(sub(base, state.params), update.payload)
