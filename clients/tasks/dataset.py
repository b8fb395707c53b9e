"""Data on one machine, cut into the shares of many peers.

A ``Dataset`` is the whole problem, a ``Shard`` is one peer's ``Task`` (a list of
row numbers), and a ``Federation`` is all of them, made only when looked up: ten
thousand peers are one flat array of row numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.tasks.checks import check, seeded
from clients.tasks.public import public_inputs
from fedcore.errors import ConfigError
from fedcore.params import Params, digest
from fedcore.seeds import permutation
from fedcore.strategy import PeerId, peer_name
from fedcore.task import Task, params_of

Rows = npt.NDArray[np.int64]  # row numbers, shape (n,)
Examples = tuple[Tensor, Tensor]  # inputs (n, ...) and targets (n, ...), row by row
Figure = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> mean, shape ()
Measure = Callable[[nn.Module, Tensor, Tensor], Mapping[str, float]]

GATHER_ROWS = 256  # rows copied at once: one copy for many batches, and still in cache
EVALUATE_ROWS = 1000  # rows per forward pass on held-out examples


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets whose class has the largest output, shape ().

    Args:
        outputs: scores, shape (n, classes) or (n, classes, positions).
        targets: right classes, shape (n,) or (n, positions).
    """
    return (outputs.argmax(1) == targets).float().mean()


def _accuracy_only() -> Mapping[str, Figure]:
    return {"accuracy": accuracy}


@dataclass(frozen=True, eq=False)
class Dataset:
    """One learning problem: examples, and the model that should fit them.

    Everything is checked when the object is made: equal lengths, finite inputs,
    a model that takes them and a loss that takes its outputs.

    Attributes:
        name: for people, such as ``"digits"``.
        train: inputs (n, ...) and targets (n, ...) to learn from, n >= 1.
        test: held-out inputs and targets of the same kind.
        model: makes a new model; called once per process, then copied.
        loss: (outputs, targets) -> mean loss, shape ().
        batch_size: rows per training batch, >= 1; the last of an epoch may be smaller.
        groups: natural owner of each training row, integers of shape (n,), if any.
        test_groups: natural owner of each held-out row, if any.
        metrics: more figures to evaluate, each (outputs, targets) -> mean, shape ().
        public: inputs (n, ...) without targets that every peer may see, if any.
        measure: evaluates instead of ``loss`` and ``metrics``, where means over rows
            will not do: (model, held-out inputs, targets) -> figures, ``loss`` and
            ``examples`` among them.

    Raises:
        ConfigError: the pieces do not fit together; names the cause and a fix.
    """

    name: str
    train: Examples
    test: Examples
    model: Callable[[], nn.Module]
    loss: Figure = cross_entropy
    batch_size: int = 32
    groups: Rows | None = None
    test_groups: Rows | None = None
    metrics: Mapping[str, Figure] = field(default_factory=_accuracy_only)
    public: Tensor | None = None
    measure: Measure | None = None
    _pattern: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pattern", check(self))

    @property
    def labels(self) -> npt.NDArray[np.generic]:
        """The training targets as an array, for partitioners."""
        array: npt.NDArray[np.generic] = self.train[1].numpy()
        return array

    def new_model(self) -> nn.Module:
        """Return a model to be overwritten: a copy, so no weights are drawn."""
        return deepcopy(self._pattern)

    def start(self, seed: int) -> Params:
        """Return the parameters a run named by ``seed`` starts from.

        They are what ``model`` draws from torch's generator, which is seeded for
        the call and put back after it. Whoever starts a run draws them once and
        sends them to the others: torch does not promise the same draw elsewhere.
        """
        with seeded(seed):
            return params_of(self.model())

    def whole(self) -> "Shard":
        """Return all training rows as one peer's task: learning without federation."""
        return Shard(self, np.arange(len(self.train[0])))

    def digest(self) -> str:
        """Return the SHA-256 of all examples, and of weights that never travel."""
        names = ("train_x", "train_y", "test_x", "test_y")
        tensors = dict(zip(names, (*self.train, *self.test), strict=True))
        if self.public is not None:
            tensors["public"] = self.public
        sent, weights = self._pattern.state_dict(), self._pattern.named_parameters()
        return digest(tensors | {f"model.{n}": p for n, p in weights if n not in sent})


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One peer's rows of a data set; a ``fedcore.task.Task``.

    Attributes:
        dataset: whose rows they are.
        rows: the training rows held here, at least one.
        held_out: the test rows that ``evaluate`` uses; None uses them all.
    """

    dataset: Dataset
    rows: Rows
    held_out: Rows | None = None

    @property
    def examples(self) -> int:
        return len(self.rows)

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.rows) // self.dataset.batch_size)

    @property
    def loss_name(self) -> str:
        """``"cross_entropy"`` when the loss is torch's own, which trainers may fuse."""
        plain = self.dataset.loss is cross_entropy
        return "cross_entropy" if plain else "custom"

    def model(self) -> nn.Module:
        return self.dataset.new_model()

    def orders(self, seed: int) -> Iterator[Rows]:
        """Yield the training rows of each of ``batches(seed)``."""
        size = self.dataset.batch_size
        for epoch in count():
            order = self.rows[permutation(len(self.rows), "epoch", seed, epoch)]
            for first in range(0, len(order), size):
                yield order[first : first + size]

    def batches(self, seed: int) -> Iterator[Examples]:
        """Yield epoch after epoch, each in its own order; no row is left out."""
        size = self.dataset.batch_size
        step = max(1, GATHER_ROWS // size) * size
        for epoch in count():
            order = self.rows[permutation(len(self.rows), "epoch", seed, epoch)]
            for first in range(0, len(order), step):
                x, y = gathered(self.dataset.train, order[first : first + step])
                yield from paired(x, y, size)

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        x, y = batch
        return self.dataset.loss(model(x), y)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the mean loss and metrics over the held-out rows, and their count."""
        if self.dataset.measure is not None:
            return self.dataset.measure(model, *self._held_out_rows())
        figures = {"loss": self.dataset.loss, **self.dataset.metrics}
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        totals, seen, was_training = dict.fromkeys(figures, 0.0), 0, model.training
        model.eval()
        with torch.no_grad():
            for x, y in self._held_out():
                outputs, y = model(x.to(device)), y.to(device)
                for name, figure in figures.items():
                    totals[name] += float(figure(outputs, y)) * len(y)
                seen += len(y)
        model.train(was_training)
        return {n: t / seen for n, t in totals.items()} | {"examples": float(seen)}

    def only(self, rows: Rows) -> "Shard":
        """Return the task of some of the examples here.

        Args:
            rows: their numbers here, below ``examples``; at least one.
        """
        return Shard(self.dataset, self.rows[rows], self.held_out)

    def inputs(self, rows: Rows) -> Tensor:
        """Return the inputs of the examples ``rows`` here, (n, ...), and no target."""
        return self.dataset.train[0].index_select(0, torch.from_numpy(self.rows[rows]))

    def targets(self, rows: Rows) -> Tensor:
        """Return the targets of the examples ``rows`` here, (n, ...)."""
        return self.dataset.train[1].index_select(0, torch.from_numpy(self.rows[rows]))

    def public(self, count: int) -> Tensor:
        """Return ``count`` inputs that every peer has; see ``clients.tasks.public``."""
        return public_inputs(self.dataset, count)

    def _held_out(self) -> Iterator[Examples]:
        return paired(*self._held_out_rows(), EVALUATE_ROWS)

    def _held_out_rows(self) -> Examples:
        whole = self.dataset.test
        return whole if self.held_out is None else gathered(whole, self.held_out)


def paired(x: Tensor, y: Tensor, size: int) -> Iterator[Examples]:
    """Return batches of ``size`` rows; the last may be smaller. Views, not copies."""
    return zip(torch.split(x, size), torch.split(y, size), strict=True)


def gathered(examples: Examples, rows: Rows) -> Examples:
    """Return copies of ``rows`` of the inputs and of the targets."""
    index = torch.from_numpy(rows)
    x, y = examples
    return x.index_select(0, index), y.index_select(0, index)


class Federation(Mapping[PeerId, Task]):
    """The tasks of many peers over one data set, made when looked up.

    Peers are ``peer_name(0)``, ``peer_name(1)``, ... in that order. When there
    are more peers than parts the parts are dealt again from the first: peer
    ``i`` holds part ``i % len(parts)`` (virtual clients for scale tests).

    Args:
        dataset: the rows to share out.
        parts: row numbers of each part, none empty.
        peers: how many peers; None for one per part.
        held_out: test rows of each part; None for all rows, for everyone.

    Raises:
        ConfigError: there is no part, or an empty one.
    """

    def __init__(
        self,
        dataset: Dataset,
        parts: Sequence[Rows],
        peers: int | None = None,
        held_out: Sequence[Rows] | None = None,
    ) -> None:
        if not parts or min(map(len, parts)) == 0:
            raise ConfigError("a federation needs at least one part, and no empty one")
        self.dataset = dataset
        self._peers = len(parts) if peers is None else peers
        self._parts = _Ragged(parts)
        self._held_out = None if held_out is None else _Ragged(held_out)

    def __getitem__(self, peer: PeerId) -> Shard:
        part = self._index(peer) % len(self._parts)
        held_out = None if self._held_out is None else self._held_out[part]
        return Shard(self.dataset, self._parts[part], held_out)

    def __iter__(self) -> Iterator[PeerId]:
        return map(peer_name, range(self._peers))

    def __len__(self) -> int:
        return self._peers

    def _index(self, peer: PeerId) -> int:
        digits = peer.rpartition("-")[2]
        index = int(digits) if digits.isascii() and digits.isdigit() else -1
        if not 0 <= index < self._peers or peer_name(index) != peer:
            raise KeyError(peer)
        return index


class _Ragged:
    """Many lists of row numbers in one flat array."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._flat = np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])
        self._ends = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, part: int) -> Rows:
        return self._flat[self._ends[part] : self._ends[part + 1]]

    def __len__(self) -> int:
        return len(self._ends) - 1
