"""The duties of KAFAL: train on the labelled examples, and choose more to label.

The peer keeps which of its examples are labelled (``labelled``, int64 numbers), and,
if the strategy asks for it, its own model after training (``own/<weight>``). Targets
are read of the labelled examples only; of the others, only inputs. The round in
which the peer last chose is kept too (``asked``): a question that comes again costs
nothing. The source, the notation and the departures are in ``strategies.kafal``.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clients.trainers import autograd
from clients.trainers.balanced import Balanced, Mixer, disagreement, entropy, rarity
from clients.trainers.local import descend
from clients.trainers.method import Method, device_of, reproducible
from clients.trainers.pool import Pool, Rows, every, pool_of, scores
from clients.trainers.rules import Rule
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.seeds import choose, permutation
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, load

OWN = "own/"
ASKED = "asked"  # kept: the newest round of choosing, and how many were labelled then
LOSSES = ("plain", "balanced", "kcfu")
OURS = frozenset({"do", "loss", "labelled", "own", "memory"})


def train(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Train on the labelled examples alone, and count only them.

    Raises:
        ConfigError: the task does not give its examples by number, or has no classes.
        ProtocolError: the work does not fit the task's model, or a hint its range.
    """
    here = here_of(task, work, peer, method)
    share = here.pool.only(here.labelled)
    hints = {k: v for k, v in work.hints.items() if k not in OURS}
    plain = replace(work, aux={}, hints=hints, kept={})
    loss = named(work, "loss", LOSSES)
    if loss == "plain":
        update = descend(share, plain, peer, method, rule)
    else:
        with reproducible():
            lesson = lesson_of(here, share, advised=loss == "kcfu")
        update = autograd.train(lesson, plain, peer, method, rule)
    keep = {"labelled": torch.from_numpy(here.labelled)}
    if work.hints.get("own"):
        keep |= {OWN + k: t + update.payload[k] for k, t in work.params.items()}
    return replace(update, keep=keep)


@dataclass(frozen=True, slots=True)
class Here:
    """One peer's examples, and how to look at them.

    Attributes:
        labelled: numbers of the labelled ones, ascending, at least one.
    """

    pool: Pool
    labelled: Rows
    work: Work
    peer: PeerId
    method: Method

    @property
    def unlabelled(self) -> Rows:
        """Numbers of the others, ascending."""
        return np.setdiff1d(every(self.pool), self.labelled)

    def says(self, params: Params, rows: Rows) -> Tensor:
        """Return the scores that the model ``params`` gives to ``rows``."""
        inputs = self.pool.inputs(rows)
        return scores(self.pool, params, inputs, self.peer, self.method)

    def counts(self, classes: int) -> Tensor:
        """Return the labelled examples of each class, (classes,), float32.

        Raises:
            ConfigError: targets are not class numbers.
        """
        y = self.pool.targets(self.labelled)
        numbers = y.ndim == 1 and not y.is_floating_point()
        if not numbers or not 0 <= y.min() <= y.max() < classes:
            raise ConfigError(
                f"targets of shape {tuple(y.shape)}, {y.dtype}, are not one of the "
                f"model's {classes} classes per example, which this strategy needs"
            )
        return torch.bincount(y, minlength=classes).float()


def query(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Label more examples, as ``hints["query"]`` says; tell how many.

    Raises:
        ConfigError: the task does not give its examples by number, or has no classes.
        ProtocolError: the work does not fit the task's model, or a hint its range.
    """
    here = here_of(task, work, peer, method)
    count, after = _picked(here, round(share_of(work, "more") * task.examples))
    metrics = {"labelled": float(len(after)), "picked": float(count)}
    asked = torch.tensor([work.version, count])
    keep = {**work.kept, "labelled": torch.from_numpy(after), ASKED: asked}
    told = {"picked": torch.tensor([float(count)])}
    return Update(peer, work.version, told, len(after), metrics, keep)


def _picked(here: Here, most: int) -> tuple[int, Rows]:
    """Return how many examples get a label now, and all that have one then.

    Work that comes again, as its answer was lost, buys no second lot of labels.
    """
    version, count = here.work.kept.get(ASKED, torch.tensor([-1, 0])).tolist()
    if version == here.work.version:
        return count, here.labelled
    with reproducible():
        picked = ranked(here)[: max(1, most)]
    return len(picked), np.union1d(here.labelled, picked)


def here_of(task: Task, work: Work, peer: PeerId, method: Method) -> Here:
    """Return what a duty looks at; the first time, the first examples get labels.

    Raises:
        ConfigError: the task does not give its examples by number.
        ProtocolError: the share is none, or what was kept fits other examples.
    """
    pool = pool_of(task, "only", "inputs", "targets")
    if "labelled" in work.kept:
        labelled = work.kept["labelled"].numpy()
        if not len(labelled) or labelled.max() >= pool.examples:
            raise ProtocolError(f"{peer}: what it kept is of other examples")
        return Here(pool, labelled, work, peer, method)
    first = max(1, round(share_of(work, "labelled") * pool.examples))
    rows = np.array(choose(pool.examples, first, "labelled", peer), dtype=np.int64)
    return Here(pool, rows, work, peer, method)


def share_of(work: Work, name: str) -> float:
    """Return the share that the hint ``name`` says.

    Raises:
        ProtocolError: it is none.
    """
    value = work.hints.get(name)
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise ProtocolError(f"hint {name} must be in (0, 1]: {value!r:.40}")
    return float(value)


def named(work: Work, hint: str, known: Collection[str]) -> str:
    """Return the one of ``known`` that a hint names.

    Raises:
        ProtocolError: it names none.
    """
    name = work.hints.get(hint)
    if name not in known:
        ours = ", ".join(known)
        raise ProtocolError(f"hint {hint} is {name!r:.40}; this peer knows: {ours}")
    return str(name)


def lesson_of(here: Here, share: Task, advised: bool) -> Balanced:
    """Return the training of ``share``, the labelled examples of ``here``."""
    server = here.work.params
    classes = here.says(server, here.labelled[:1]).shape[1]
    counts, rows = here.counts(classes), here.unlabelled
    if not advised or not len(rows):
        return Balanced(share, counts)
    _check_mixable(here.pool.inputs(rows[:1]))
    worth = rarity(counts)[here.says(server, rows).argmax(1)]
    net = load(here.pool.model(), server).to(device_of(here.method.device)).eval()
    return Balanced(share, counts, Mixer(here.pool, rows, worth), net)


def _check_mixable(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ConfigError(
            f"inputs are {x.dtype}, and strategy.loss=kcfu mixes inputs, so they must "
            "be floating numbers: use strategy.loss=balanced"
        )


def ranked(here: Here) -> Rows:
    """Return the unlabelled examples, those to label first; equals by chance.

    Raises:
        ProtocolError: there is no such way to rank them.
    """
    value_of = VALUES[named(here.work, "query", VALUES)]
    rows: Rows = here.unlabelled
    rows = rows[permutation(len(rows), "query", here.peer, here.work.version)]
    if not len(rows):
        return rows
    order = torch.argsort(value_of(here, rows), descending=True, stable=True)
    ordered: Rows = rows[order.numpy()]
    return ordered


def by_disagreement(here: Here, rows: Rows) -> Tensor:
    """KSAS: how far the peer's own model and the server's disagree about each."""
    own = {k: here.work.kept.get(OWN + k) for k in here.work.params}
    kept = {k: t for k, t in own.items() if t is not None}
    if len(kept) < len(own):  # it has not trained yet
        return by_chance(here, rows)
    ours, theirs = here.says(kept, rows), here.says(here.work.params, rows)
    return disagreement(ours, theirs, here.counts(ours.shape[1]))


def by_entropy(here: Here, rows: Rows) -> Tensor:
    """Return how unsure the server's model is about each."""
    return entropy(here.says(here.work.params, rows))


def by_chance(here: Here, rows: Rows) -> Tensor:
    """Return the same for all."""
    return torch.zeros(len(rows))


VALUES: Mapping[str, Callable[[Here, Rows], Tensor]] = {
    "ksas": by_disagreement,
    "entropy": by_entropy,
    "random": by_chance,
}
