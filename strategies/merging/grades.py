"""Peers of different ranks: what each is asked to train, and how answers come together.

A model comes in one of two forms. If its tensors are adapters (``strategies.merging.
pairs``) of a base that every peer holds, peers train those, cut to their rank, and send
the halves themselves, not differences: adapters that are merged have other units each
round, so a difference would mean nothing to them. All other tensors are averaged.

Otherwise the model is whole, and every peer makes adapters of its own for each matrix
(``clients.trainers.lowrank``). Their product is added to the model, and is gone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from fedcore.errors import ConfigError
from fedcore.params import Params, add
from fedcore.partial import mean_of
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts
from strategies.lora_sum import DOWN, LARGEST, UP, factored, too_large
from strategies.merging.pairs import (
    Pair,
    cut,
    down_of,
    filled,
    pairs_of,
    shaped,
    up_of,
)
from strategies.merging.stack import Halves, one_thread

USUAL = 8  # highest rank of peers that make their own adapters, if none is set

Rule: TypeAlias = Callable[[Halves, Sequence[Halves], Sequence[int]], Halves]


@dataclass(frozen=True, slots=True)
class Adapted:
    """The model, and what of it a peer of each grade is sent.

    Attributes:
        version: rounds folded.
        params: the model.
        sent: the model cut to each grade's rank, the highest first; one object with
            ``params`` where nothing is cut.
    """

    version: int
    params: Params
    sent: tuple[Params, ...]


@dataclass(frozen=True, slots=True)
class Grades:
    """Who trains how many units.

    Attributes:
        rank: highest rank, >= 0; 0 is that of the adapters, or 8 without any.
        ranks: how many ranks there are, each half of the one before, >= 1.
    """

    rank: int
    ranks: int

    def __post_init__(self) -> None:
        counts(0, rank=self.rank)
        counts(1, ranks=self.ranks)
        if self.rank and self.rank >> (self.ranks - 1) < 1:
            raise ConfigError(
                f"rank {self.rank} cannot be halved {self.ranks - 1} times: lower "
                f"ranks, or raise rank to {1 << (self.ranks - 1)}"
            )

    @property
    def own(self) -> int:
        """The highest rank of peers that make their own adapters."""
        return self.rank or max(USUAL, 1 << (self.ranks - 1))

    def grade(self, peer: PeerId) -> int:
        """Return how often the rank of ``peer`` is halved: drawn from its name."""
        return seed_of("rank", peer) % self.ranks

    def state(self, version: int, params: Params) -> Adapted:
        """Return the state with ``params`` and what is cut from it.

        Raises:
            ConfigError: adapters are incomplete.
        """
        pairs = pairs_of(params)
        grades = range(self.ranks if pairs else 1)
        sent = tuple(cut(params, pairs, self.rank, grade) for grade in grades)
        return Adapted(version, params, sent)

    def work(self, state: Adapted, peer: PeerId, steps: int, epochs: int) -> Work:
        """Return what ``peer`` is asked to do, by the form of the model."""
        grade = self.grade(peer)
        if pairs_of(state.params):
            sent, hints = state.sent[grade], {"do": "ranked"}
            return Work(state.version, sent, steps, epochs, hints=hints)
        asked: dict[str, int | float | str] = {
            "do": "lowrank",
            "rank": self.own >> grade,
            "ratio": 0.0,
            "scale": self.own**-0.5,
            "memory": "adapters",
        }
        return Work(state.version, state.params, steps, epochs, hints=asked)

    def model(self, state: Adapted, peer: PeerId) -> Params:
        """Return the weights that ``peer`` would use, with the shapes of the model."""
        pairs = pairs_of(state.params)
        sent = state.sent[self.grade(peer)] if pairs else state.params
        return filled(sent, state.params, pairs)


def expected(work: Work) -> Params:
    """Return the form of an answer to ``work``."""
    own = work.hints["do"] == "lowrank"
    return factored(work.params, int(work.hints["rank"])) if own else work.params


def made_pairs(params: Params) -> tuple[Pair, ...]:
    """Return the adapters that peers made for a model without any; see ``lora_sum``."""
    names = (n.removesuffix(UP) for n in params if n.endswith(UP))
    return tuple(Pair(name + UP, name + DOWN) for name in names)


def halves_of(params: Params, pair: Pair) -> Halves:
    """Return B and A of ``pair`` as float64 matrices."""
    return up_of(params, pair), down_of(params, pair)


def bounded(updates: Sequence[Update]) -> list[Update]:
    """Return the updates that are not ``unfit``: those that the gate lets pass."""
    return [u for u in updates if unfit(u) is None]


def unfit(update: Update) -> str | None:
    """Return why ``update`` is refused: its halves, each in range, make too much.

    Of an adapter of the task's own no number in B A is above the longest row of B times
    the longest column of A, and that is judged: the product may be large.
    """
    if reason := too_large(update):
        return reason
    for pair in pairs_of(update.payload):
        if (top := _reach(update, pair)) > LARGEST:
            return f"{pair.up} and its other half make {top:.4g}, above {LARGEST:g}"
    return None


def folded(
    params: Params, updates: Sequence[Update], rule: Rule, server_lr: float
) -> Params:
    """Return ``params`` with each adapter merged by ``rule``, the rest moved.

    Args:
        params: the model, its adapters among its tensors.
        updates: halves of adapters, and how far the rest moved; not empty.
        rule: (adapter now, those of the answers, their examples) -> merged adapter.
        server_lr: step along the mean of the rest.
    """
    pairs = pairs_of(params)
    halves = {name for pair in pairs for name in (pair.up, pair.down)}
    tree = dict(params)
    rest = [name for name in params if name not in halves]
    if rest:
        only = [replace(u, payload={n: u.payload[n] for n in rest}) for u in updates]
        tree |= add({n: params[n] for n in rest}, mean_of(only), server_lr)
    weights = [u.examples for u in updates]
    with one_thread():
        for pair in pairs:
            given = [halves_of(u.payload, pair) for u in updates]
            merged = rule(halves_of(params, pair), given, weights)
            tree |= shaped(params, pair, merged)
    return tree


def _reach(update: Update, pair: Pair) -> float:
    up, down = halves_of(update.payload, pair)
    if not (up.numel() and down.numel()):
        return 0.0
    return float(up.norm(dim=1).max() * down.norm(dim=0).max())


class Merging:
    """What strategies that merge adapters have in common: all but how they merge."""

    __slots__ = ()

    rank: int
    ranks: int
    steps: int
    epochs: int

    @property
    def grades(self) -> Grades:
        """Who trains how many units."""
        return Grades(self.rank, self.ranks)

    def init(self, params: Params) -> Adapted:
        return self.grades.state(0, params)

    def work(self, state: Adapted, peer: PeerId) -> Work:
        return self.grades.work(state, peer, self.steps, self.epochs)

    def model(self, state: Adapted, peer: PeerId) -> Params:
        """Return the weights that ``peer`` would use: its rank, and zeros."""
        return self.grades.model(state, peer)

    def expects(self, work: Work) -> Params:
        return expected(work)

    def unfit(self, update: Update) -> str | None:
        """Return why ``update`` cannot be merged, though the gate let it pass."""
        return unfit(update)
