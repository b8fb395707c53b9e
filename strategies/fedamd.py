"""FedAMD: some peers anchor a direction with large gradients, others walk along it.

Source:
    Wu, Wang, Wang, Wang, "Anchor Sampling for Federated Learning with Partial Client
    Participation", ICML 2023, Algorithm 1. https://arxiv.org/abs/2206.05891

Notation, paper -> here:
    x_t          model                    ``state.params``
    v_m          last anchor gradient     ``state.gradients[peer]``
    g_t          mean of all v_m          ``state.total / len(state.gradients)``
    p            chance to be an anchor   ``anchor_share``, or from ``rule``
    M, A         peers, and per round     ``clients``, ``cohort``
    b            batch of an anchor       ``steps`` batches; all examples when 0
    K            steps of a miner         ``steps``, or ``epochs`` passes
    η_s          server step              ``server_lr``
    η_l          local step               the trainer's

An anchor answers with its gradient at the model: it renews v_m and moves nothing. A
miner starts from v = g_t and corrects it along its way x_1, x_2, ... by what each step
changed, v += ∇f(x_k; B) - ∇f(x_{k-1}; B) (SPIDER), and answers with how far it went.
The model moves by the mean of the miners; a round without any leaves it where it is.

Departures:
    The paper first asks all M peers for a gradient. Here a peer is an anchor whenever
    it has no v_m yet, so round 0 has anchors only and newcomers are welcome; g_t is
    the mean over the peers heard.

    Who anchors is drawn from the peer's name and the version, so that the strategy
    stays pure. An anchor's tensors are named ``gradient:...``: each answer says what
    it is, however late it comes.

    The published default is p = 0.2 (``rule = "constant"``). Here it is the paper's
    other scheme, whole rounds of anchors in turn: with a constant p a v_m is on
    average M / (A p) rounds old, and we saw the loss swing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Literal

import torch

from fedcore.errors import ConfigError
from fedcore.params import Params, add, scaled, sub
from fedcore.partial import mean_of
from fedcore.seeds import uniform
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.limits import counts, local_work, positive

MARK = "gradient:"  # before the names of an anchor's tensors


@dataclass(frozen=True, slots=True)
class Anchored:
    """The model, and the last gradient of every peer heard.

    Attributes:
        version: rounds folded.
        params: the model.
        total: sum of all ``gradients``, float32, shaped as the weights.
        gradients: v_m of each peer heard so far, float32.
    """

    version: int
    params: Params
    total: Params
    gradients: Mapping[PeerId, Params]


@dataclass(frozen=True, slots=True)
class FedAMD:
    """Anchors renew gradients, miners move the model.

    Attributes:
        rule: who anchors. ``"sequential"``: everybody in every ``every``-th round.
            ``"constant"``: each with chance ``anchor_share``. ``"optb"`` and
            ``"optc"``: with a chance that follows from ``clients`` and ``cohort``.
        anchor_share: p, in [0, 1]; used by ``rule = "constant"`` only.
        every: rounds from one of anchors to the next, >= 2.
        cohort: peers per round; 0 for all. Used by ``"optb"`` and ``"optc"``.
        clients: peers there are; 0 for as many as ``cohort``.
        server_lr: step along the miners' mean, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes of a miner over its examples, >= 1; an anchor makes one.
    """

    rule: Literal["constant", "optb", "optc", "sequential"] = "sequential"
    anchor_share: float = 0.2
    every: int = 2
    cohort: int = 0
    clients: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)
        counts(2, every=self.every)
        counts(0, cohort=self.cohort, clients=self.clients)
        if not 0 <= self.anchor_share <= 1:
            raise ConfigError(f"anchor_share must be in [0, 1]: {self.anchor_share}")

    @property
    def chance(self) -> float:
        """The chance that a peer is an anchor; of the unsure rules."""
        drawn = self.cohort or self.clients or 1
        if self.rule == "optb":
            odds = max(1.0, self.clients / drawn)
            return sqrt(4 * odds**2 + 2 * odds) - 2 * odds
        if self.rule == "optc":
            return float((2 / (drawn + 2)) ** (1 / drawn))
        return self.anchor_share

    def init(self, params: Params) -> Anchored:
        zeros = {k: torch.zeros(t.shape) for k, t in weights_of(params).items()}
        return Anchored(0, params, zeros, {})

    def anchors(self, state: Anchored, peer: PeerId) -> bool:
        """Return whether ``peer`` is an anchor now."""
        if peer not in state.gradients:
            return True
        if self.rule == "sequential":
            return state.version % self.every == 0
        return uniform("anchor", peer, state.version) < self.chance

    def work(self, state: Anchored, peer: PeerId) -> Work:
        if self.anchors(state, peer):
            hints = {"do": "anchor"}
            return Work(state.version, state.params, self.steps, 1, hints=hints)
        return Work(
            state.version,
            state.params,
            self.steps,
            self.epochs,
            aux=scaled(state.total, 1 / len(state.gradients)),
            hints={"do": "miner"},
        )

    def expects(self, work: Work) -> Params:
        weights = weights_of(work.params)
        if work.hints.get("do") == "miner":
            return weights
        return {f"{MARK}{k}": torch.zeros(t.shape) for k, t in weights.items()}

    def apply(self, state: Anchored, updates: Sequence[Update]) -> Anchored:
        fresh = {u.peer: _gradient(u) for u in updates if _is_gradient(u)}
        miners = [replace(u, examples=1) for u in updates if not _is_gradient(u)]
        total = state.total
        for peer, gradient in fresh.items():
            old = state.gradients.get(peer)
            total = add(total, gradient if old is None else sub(gradient, old))
        gradients = {**state.gradients, **fresh}
        params = self._moved(state.params, miners) if miners else state.params
        return Anchored(state.version + 1, params, total, gradients)

    def _moved(self, params: Params, miners: Sequence[Update]) -> Params:
        step = scaled(mean_of(miners), self.server_lr)
        return {**params, **add(weights_of(params), step)}


def _is_gradient(update: Update) -> bool:
    return any(name.startswith(MARK) for name in update.payload)


def _gradient(update: Update) -> Params:
    return {k.removeprefix(MARK): t for k, t in update.payload.items()}
