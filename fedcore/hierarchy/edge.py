"""A peer that stands for peers of its own: work goes down to them, one sum goes up.

To those above an edge is one peer with one answer, whose payload is the exact sum of
its peers' answers as ring elements. So the model has the bits that it would have if all
peers answered those above themselves. The gate above must take sums
(``Gate(ring=True)``), and trusts the edge to have looked at each answer: it does, with
a gate of its own.

    Edge(SGD())              peers in this process: their tasks are a ``Branch``
    LinkEdge(link)           peers behind any link, such as a Flower grid of the edge

Both are trainers, so they run wherever trainers do: in the loop, on the virtual clock,
as a Flower client (``fedcore.flower.edge``). An edge may have edges below it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from fedcore.coordinator import Link
from fedcore.errors import ConfigError, PeerLostError
from fedcore.gate import Gate
from fedcore.hierarchy.plan import placed
from fedcore.params import Params
from fedcore.partial import Partial
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, Trainer

MARK = "|"  # between a peer's name and the name of a tensor that it keeps
Expects = Callable[[Work], Params]

_log = logging.getLogger(__name__)


def like_the_model(work: Work) -> Params:
    """Return what most strategies expect: how far each tensor of the model moved."""
    return work.params


@dataclass(frozen=True)
class Branch:
    """The tasks of the peers below an edge, as one task.

    Attributes:
        tasks: of every peer, at least one; no name may contain ``|``.
    """

    tasks: Mapping[PeerId, Task]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("an edge needs at least one peer below it")
        odd = sorted(peer for peer in self.tasks if MARK in peer)
        if odd:
            raise ConfigError(f"the name of a peer below an edge has a |: {odd[0]!r}")

    @property
    def examples(self) -> int:
        """Training examples of all peers."""
        return sum(task.examples for task in self.tasks.values())

    @property
    def epoch_steps(self) -> int:
        """Batches in one pass of the peer that has most: they work side by side."""
        return max(task.epoch_steps for task in self.tasks.values())

    def model(self) -> nn.Module:
        """Return a new model, that of any peer."""
        return next(iter(self.tasks.values())).model()

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield the peers' batches in turn, each with its peer's name."""
        streams = {
            peer: task.batches(seed_of("branch", peer, seed))
            for peer, task in sorted(self.tasks.items())
        }
        while True:
            for peer, stream in streams.items():
                yield peer, next(stream)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss that the batch's own peer takes."""
        peer, own = batch
        return self.tasks[peer].loss(model, own)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the means over the peers, weighted by examples held out."""
        figures = [dict(task.evaluate(model)) for task in self.tasks.values()]
        weights = [row.pop("examples", 1.0) for row in figures]
        return {**_means(figures, weights), "examples": sum(weights)}


def branches(
    tasks: Mapping[PeerId, Task], edges: Mapping[PeerId, float]
) -> dict[PeerId, Branch]:
    """Return what every edge stands for: each peer goes where there is room for it.

    Args:
        tasks: of all peers.
        edges: how many examples each edge can look after, > 0; where they do not
            suffice, some look after more. An edge that is not needed gets no branch.

    Raises:
        ConfigError: there is no edge, or a capacity is not finite and >= 0.
    """
    places = placed({peer: task.examples for peer, task in tasks.items()}, edges)
    return {
        edge: Branch({peer: tasks[peer] for peer in tasks if places[peer] == edge})
        for edge in sorted(set(places.values()))
    }


@dataclass(frozen=True)
class Edge:
    """A trainer whose task is a ``Branch``: trains its peers in turn, sends their sum.

    What the peers keep, the edge keeps for them, name by name.

    Attributes:
        trainer: what the peers do.
        gate: what their answers must be; those refused are logged and left out.
        expects: the form of an answer, as ``Strategy.expects`` gives it.
    """

    trainer: Trainer
    gate: Gate = field(default_factory=Gate)
    expects: Expects = like_the_model

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        """Return the sum of the peers' answers.

        Raises:
            ConfigError: the task is no ``Branch``.
            PeerLostError: no answer was good.
        """
        if not isinstance(task, Branch):
            raise ConfigError(
                f"{peer} is an edge, so its task must be a Branch of its peers' tasks, "
                f"not a {type(task).__name__}"
            )
        kept = {child: _kept(work.kept, child) for child in task.tasks}

        def answers() -> Iterator[Update]:
            for child, own in sorted(task.tasks.items()):
                update = self.trainer(own, replace(work, kept=kept[child]), child)
                kept[child] = update.keep or kept[child]
                yield update

        asked = dict.fromkeys(task.tasks, work)
        good = _passed(answers(), asked, self.gate, self.expects)
        whole = _merged(peer, good)
        keep = {f"{c}{MARK}{n}": t for c, tree in kept.items() for n, t in tree.items()}
        return replace(whole, keep=keep)


@dataclass(frozen=True)
class LinkEdge:
    """A trainer that asks peers behind a link, and sends the sum of their answers.

    Attributes:
        link: to the peers; used by one edge only.
        quorum: fewest peers to begin with, and good answers to end with, >= 1.
        gather_s: longest wait for them to be online, in seconds of the link.
        patience_s: longest wait for answers, in seconds of the link.
        gate: what their answers must be.
        expects: the form of an answer.

    Raises:
        ConfigError: a number is out of its range.
    """

    link: Link
    quorum: int = 1
    gather_s: float = 120.0
    patience_s: float = 3600.0
    gate: Gate = field(default_factory=Gate)
    expects: Expects = like_the_model

    def __post_init__(self) -> None:
        if self.quorum < 1 or not (self.gather_s > 0 and self.patience_s > 0):
            raise ConfigError(
                "an edge needs quorum >= 1, gather_s > 0 and patience_s > 0: "
                f"{self.quorum}, {self.gather_s}, {self.patience_s}"
            )

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        """Return the sum of the answers of all peers online; ``task`` is not used.

        Raises:
            PeerLostError: fewer than ``quorum`` peers came, or answered well in time.
        """
        asked = dict.fromkeys(self._gathered(), work)
        for child in asked:
            self.link.send(child, replace(work, kept={}))
        good = _passed(self._answers(asked), asked, self.gate, self.expects)
        return _merged(peer, good, self.quorum)

    def _gathered(self) -> Sequence[PeerId]:
        until_s = self.link.now_s() + self.gather_s
        while len(idle := self.link.idle()) < self.quorum:
            if self.link.now_s() >= until_s:
                told = f"{len(idle)} of {self.quorum} peers below it"
                raise PeerLostError(f"only {told} are online after {self.gather_s} s")
            self.link.receive(min(until_s, self.link.now_s() + 1.0))
        return idle

    def _answers(self, asked: dict[PeerId, Work]) -> Iterator[Update]:
        """Yield answers as they come, until none is owed or patience ends."""
        until_s = self.link.now_s() + self.patience_s
        while asked and self.link.now_s() < until_s:
            arrivals = self.link.receive(until_s)
            yield from arrivals.updates
            for child, reason in arrivals.lost.items():
                _log.warning("lost %s: %s", child, reason)
                asked.pop(child, None)


def _passed(
    answers: Iterable[Update], asked: dict[PeerId, Work], gate: Gate, expects: Expects
) -> Iterator[Update]:
    """Yield the ``answers`` that pass the gate; takes who answered off ``asked``."""
    for update in answers:
        work = asked.get(update.peer) if isinstance(update.peer, str) else None
        refusal = gate.refusal(update, work, expects=expects, stale_after=0)
        if refusal is None:
            yield update
        else:
            _log.warning("refused %s: %s", refusal.peer, refusal.reason)
        if work is not None:
            asked.pop(update.peer)


def _merged(peer: PeerId, updates: Iterable[Update], fewest: int = 1) -> Update:
    """Return one update of ``peer`` that stands for ``updates``, summed as they come.

    Raises:
        PeerLostError: there are fewer than ``fewest``.
    """
    partial, metrics, weights = Partial(), list[Mapping[str, float]](), list[float]()
    for update in updates:
        partial.add(update)
        metrics.append(update.metrics)
        weights.append(float(update.examples))
    if len(metrics) < fewest:
        told = f"{len(metrics)} of {fewest} good answers"
        raise PeerLostError(f"{peer}: {told} from the peers below it")
    return replace(partial.update(peer), metrics=_means(metrics, weights))


def _means(
    rows: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> dict[str, Any]:
    """Return the weighted means of the figures that all ``rows`` have.

    A number of ``steps`` is told only where it is the same for all.
    """
    shared = set.intersection(*(set(row) for row in rows))
    if len({row["steps"] for row in rows} if "steps" in shared else ()) > 1:
        shared.discard("steps")
    total = sum(weights)
    means = {
        name: sum(w * row[name] for w, row in zip(weights, rows, strict=True)) / total
        for name in sorted(shared - {"steps"})
    }
    return means | ({"steps": rows[0]["steps"]} if "steps" in shared else {})


def _kept(kept: Params, child: PeerId) -> Params:
    """Return what ``child`` kept, out of what the edge keeps for all."""
    head = child + MARK
    return {n.removeprefix(head): t for n, t in kept.items() if n.startswith(head)}
