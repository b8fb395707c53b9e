"""MeZO, federated: a fresh direction every step, and whole models to the peers.

The baseline of strategies with shared seeds: what they save is seen against it.

Source:
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (MeZO),
    NeurIPS 2023, Algorithm 1. https://arxiv.org/abs/2305.17333

Notation, paper -> here:
    θ            model                    ``state.params``
    η, ε         step, probe              ``lr``, ``eps``
    projected_grad                        one of ``update.payload["scalars"]``
    s, z         seed, direction          ``fresh(pool, peer, version, turn, count)``

No pool outlives a peer's one piece of work, so a model is not a few integers: it goes
out whole, and only the answers are small, one number a step.

Departures:
    The paper has one learner; here several take local steps and their walks are
    averaged by examples. Directions are ±1 in place of normal by default, since these
    are the same bits on every machine; ``pool = "gaussian"`` is the paper's. All steps
    of one piece of work are directions of one pool of their own, so that a server
    replays a walk in one pass. No weight decay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fedcore.errors import ProtocolError
from fedcore.params import Params, add, zeros_like
from fedcore.pool import Pool, expand
from fedcore.ring import encode
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.limits import counts
from strategies.probing import Kind, Probing, Tie
from strategies.seeded import divided, held_within, turn_of


@dataclass(frozen=True, slots=True)
class Walked:
    """The model after ``version`` rounds.

    Attributes:
        version: rounds folded.
        params: the model.
        cut: numbers cut short at a limit so far.
    """

    version: int
    params: Params
    cut: int = 0


@dataclass(frozen=True, slots=True)
class MeZO:
    """Move along fresh directions by what the peers' probes say on average.

    Attributes:
        lr: step along ``g z``, > 0.
        eps: how far from the model the loss is probed, > 0.
        clip: largest size of one ``g``, in (0, 10000]; larger ones are cut and counted.
        directions: probes averaged in one step, on one batch, >= 1.
        halve: rounds after which ``lr`` halves, again and again; 0 never.
        pool: kind of the directions, see ``fedcore.pool``.
        tie: what ties the blocks of a ``"hadamard"`` direction.
        seed: names the directions, >= 0.
        steps: probes per peer and round, >= 1.
    """

    lr: float = 1e-3
    eps: float = 1e-3
    clip: float = 100.0
    directions: int = 1
    halve: int = 0
    pool: Kind = "hadamard"
    tie: Tie = "shift"
    seed: int = 0
    steps: int = 100
    needs: ClassVar[Literal["each"]] = "each"
    told: ClassVar[tuple[str, ...]] = ("turn",)  # says which directions were drawn

    def __post_init__(self) -> None:
        counts(1, steps=self.steps)
        self.probing().check_probes(self.steps)

    def probing(self) -> Probing:
        """Return the settings that all zeroth-order strategies have."""
        return Probing(
            lr=self.lr,
            eps=self.eps,
            size=2,
            clip=self.clip,
            directions=self.directions,
            halve=self.halve,
            pool=self.pool,
            tie=self.tie,
            seed=self.seed,
        )

    def init(self, params: Params) -> Walked:
        return Walked(0, params)

    def work(self, state: Walked, peer: PeerId) -> Work:
        probing = self.probing()
        hints = probing.asked(state.version, probing.shared(), "scalars")
        return Work(state.version, state.params, self.steps, hints=hints)

    def expects(self, work: Work) -> Params:
        return {"scalars": torch.zeros((work.steps or self.steps) * self.directions)}

    def apply(self, state: Walked, updates: Sequence[Update]) -> Walked:
        weight = sum(u.examples for u in updates)
        total = zeros_like({k: t.float() for k, t in weights_of(state.params).items()})
        cut = state.cut
        for update in updates:
            walk, more = self._walk(update, total, update.examples / weight)
            total, cut = add(total, walk), cut + more
        moved = {k: state.params[k] + t for k, t in total.items()}  # float32 or more
        params = {k: moved.get(k, t).to(t.dtype) for k, t in state.params.items()}
        return Walked(state.version + 1, params, cut)

    def _walk(self, update: Update, like: Params, part: float) -> tuple[Params, int]:
        """Return ``part`` of how far the peer went, and how much was cut short."""
        scalars = update.payload["scalars"]
        if scalars.ndim != 1 or not len(scalars):
            raise ProtocolError(f"{update.peer}: no line of scalars")
        held, cut = held_within(scalars, self.clip)
        asked = (update.peer, update.version, turn_of(update))
        pool = fresh(self.probing().shared(), *asked, len(scalars))
        line = torch.zeros(1, pool.size, dtype=torch.int64)
        amounts = divided(encode(held), self.probing().share(update.version))
        line[0, : len(amounts)] = amounts
        return expand(pool, line, -self.lr * part, zeros_like(like)), cut


def fresh(pool: Pool, peer: PeerId, version: int, turn: int, count: int) -> Pool:
    """Return the pool of a peer's one piece of work; step i takes direction i.

    It is as ``pool`` but for its seed, and has room for ``count`` <= 65536 directions.
    """
    size = max(2, 1 << (count - 1).bit_length())
    seed = seed_of("fresh", pool.word(), peer, version, turn)
    return Pool(size, pool.kind, pool.tie, seed)
