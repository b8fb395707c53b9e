"""The duty ``fuse``: learn from what peers say about shared inputs (KnFu).

The peer's own model stays here (``Update.keep``) and may have any form. One work is:

1. with ``work.aux["targets"]``, (public, classes): take ``hints["distill"]`` passes
   over the public inputs towards these shares of the classes;
2. train on the own examples, as plain descent would;
3. answer with ``knowledge``, the classes' shares that the model now gives to each
   public input, and ``estimate``, its mean shares on the own examples.

A peer that keeps nothing starts from ``work.params``; if these do not fit its own
kind of model, from the weights its task makes.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.trainers import autograd
from clients.trainers.local import descend
from clients.trainers.method import Method, reproducible
from clients.trainers.pool import every, pool_of, scores
from clients.trainers.rules import Rule
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params, add
from fedcore.seeds import permutation
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, params_of

ROWS = 32  # public inputs in one batch
OURS = frozenset({"do", "public", "classes", "distill", "memory"})


def fuse(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Distil, train and tell; see the module.

    Raises:
        ConfigError: the task has no public inputs, or other classes than expected.
        ProtocolError: a hint or the targets are out of their range.
    """
    pool = pool_of(task, "public", "inputs")
    public = pool.public(whole(work, "public"))
    own = own_model(task, work)
    if "targets" in work.aux:
        own = taught(task, replace(work, params=own), public, peer, method, rule)
    hints = {k: v for k, v in work.hints.items() if k not in OURS}
    plain = replace(work, params=own, aux={}, hints=hints, kept={})
    learnt = descend(task, plain, peer, method, rule)
    own = add(own, learnt.payload)
    with reproducible():
        known = scores(task, own, public, peer, method).softmax(1)
        seen = scores(task, own, pool.inputs(every(task)), peer, method).softmax(1)
    _check_classes(known, whole(work, "classes"))
    payload = {"knowledge": known, "estimate": seen.double().mean(0).float()}
    return replace(learnt, payload=payload, keep=own)


def own_model(task: Task, work: Work) -> Params:
    """Return the weights the peer goes on from; see the module."""
    own = work.kept or work.params
    made = params_of(task.model())
    fits = own.keys() == made.keys() and all(
        own[name].shape == t.shape for name, t in made.items()
    )
    return own if fits else made


def taught(
    task: Task, work: Work, public: Tensor, peer: PeerId, method: Method, rule: Rule
) -> Params:
    """Return ``work.params`` after learning ``work.aux["targets"]``.

    The rule's memory is left as it is, for the training that follows.

    Raises:
        ProtocolError: the targets are not one row of shares for each public input.
    """
    targets, passes = work.aux["targets"], whole(work, "distill", least=0)
    if targets.shape != (len(public), whole(work, "classes")):
        raise ProtocolError(
            f"targets have shape {tuple(targets.shape)} for {len(public)} inputs"
        )
    if not passes:
        return work.params
    plain = Work(work.version, work.params, epochs=passes)
    lesson = Lesson(task, public, targets)
    moved = autograd.train(lesson, plain, peer, method, deepcopy(rule))
    return add(work.params, moved.payload)


def whole(work: Work, name: str, least: int = 1) -> int:
    """Return the whole number that the hint ``name`` says.

    Raises:
        ProtocolError: it is none, or below ``least``.
    """
    value = work.hints.get(name)
    if type(value) is not int or value < least:
        raise ProtocolError(f"hint {name} must be at least {least}: {value!r:.40}")
    return value


def _check_classes(shares: Tensor, classes: int) -> None:
    if shares.shape[1] != classes:
        raise ConfigError(
            f"the model tells {shares.shape[1]} classes apart, but strategy.classes "
            f"is {classes}: set strategy.classes={shares.shape[1]}"
        )


@dataclass(frozen=True, slots=True)
class Lesson:
    """A task whose examples are public inputs with shares of the classes as targets.

    Attributes:
        task: whose model learns.
        inputs: (n, ...).
        shares: (n, classes), each row sums to 1.
    """

    task: Task
    inputs: Tensor
    shares: Tensor

    @property
    def examples(self) -> int:
        return len(self.inputs)

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.inputs) // ROWS)

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in count():
            order = permutation(self.examples, "lesson", seed, epoch)
            for rows in torch.split(torch.from_numpy(order), ROWS):
                yield self.inputs[rows], self.shares[rows]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy: the divergence up to a constant."""
        x, shares = batch
        return cross_entropy(model(x), shares)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self.task.evaluate(model)
