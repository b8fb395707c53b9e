"""The duty ``fomaml``: find a start from which a few steps go far.

Source:
    Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks", ICML 2017, Algorithm 1 and the first-order form of section 5.2.
    https://arxiv.org/abs/1703.03400

Notation, paper -> here:
    α            inner step             hint ``inner_lr``; the trainer's own step
                                        if it is not sent
    K            inner steps            hint ``inner_steps``; 1 if it is not sent
    θ            outer weights          ``weights``
    θ'           adapted weights        ``weights``, while the query is looked at
    D, D'        support, query         the first K batches of a group, and its last

One outer step adapts the weights by K plain steps on support batches, takes the
gradient of the query batch there, goes back, and steps along it from θ with the
trainer's own rule.

Departures: a peer is one task and its batches are the shots, in the order of plain
training. Work is counted in batches, K + 1 for each outer step; the last group is
filled up, so up to K batches more than asked for are looked at. Running statistics
see support and query alike. The figure ``loss`` is that of the queries, after
adaptation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf

import torch
from torch import Tensor, nn

from clients.trainers.autograd import gradient_of, train
from clients.trainers.method import Method
from clients.trainers.rules import Rule, Tensors
from fedcore.errors import ProtocolError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, steps_of

MOST = 1000  # inner steps in one work


def fomaml(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Train the weights as a start for adaptation; see the module.

    Raises:
        ProtocolError: the work does not fit the task's model, or a hint its range.
    """
    inner_lr, inner_steps = inner_of(work, method)
    asked = steps_of(task, work)
    outer = replace(work, steps=-(-asked // (inner_steps + 1)))
    gradient = partial(query_gradient, inner_lr)
    update = train(Grouped(task, inner_steps + 1), outer, peer, method, rule, gradient)
    return replace(update, metrics={**update.metrics, "steps": float(asked)})


def inner_of(work: Work, method: Method) -> tuple[float, int]:
    """Return the step and number of steps of the adaptation.

    Raises:
        ProtocolError: the step is not a finite number above 0, or there is none.
    """
    rate = work.hints.get("inner_lr", method.rate(work))
    steps = work.hints.get("inner_steps", 1)
    if isinstance(rate, str) or not 0 < rate < inf:
        raise ProtocolError(f"hint inner_lr must be above 0: {rate!r:.40}")
    if type(steps) is not int or not 1 <= steps <= MOST:
        raise ProtocolError(f"hint inner_steps must be 1 to {MOST}: {steps!r:.40}")
    return float(rate), steps


def query_gradient(
    inner_lr: float, task: Task, model: nn.Module, weights: Tensors, group: Batch
) -> tuple[Tensor, Tensors]:
    """Return the loss and gradient of the last batch after adapting to the others.

    Leaves ``weights`` as they were.
    """
    *support, query = group
    before = [w.detach().clone() for w in weights]
    for batch in support:
        _, grads = gradient_of(task, model, weights, batch)
        with torch.no_grad():
            torch._foreach_add_(weights, grads, alpha=-inner_lr)
    found = gradient_of(task, model, weights, query)
    with torch.no_grad():
        torch._foreach_copy_(weights, before)
    return found


@dataclass(frozen=True, slots=True)
class Grouped:
    """A task whose batches are lists of ``size`` batches of ``task``."""

    task: Task
    size: int

    @property
    def examples(self) -> int:
        return self.task.examples

    @property
    def epoch_steps(self) -> int:
        return -(-self.task.epoch_steps // self.size)

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, seed: int) -> Iterator[list[Batch]]:
        batches = self.task.batches(seed)
        while True:
            yield list(islice(batches, self.size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self.task.evaluate(model)
