"""Training of plain stacks under cross-entropy, by hand, one model or many at once.

Forward, backward and step are about ten kernels per batch, without a graph: the
gradient of the first layer's input is never made, and for plain SGD no gradient
is: each product goes straight into its weight. Many small models can go through
together (a cohort), and each gets the bits that it gets alone, because every
kernel here works model by model or row by row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clients.trainers.feed import Entry, Feed
from clients.trainers.layers import ROWS_LAST, Dense, Sink, beside, build, room
from clients.trainers.method import reproducible
from clients.trainers.plan import Plan
from clients.trainers.rules import Rule
from clients.trainers.terms import Terms, terms_of
from fedcore.params import Params
from fedcore.strategy import Update


def train(
    entries: Sequence[Entry], plan: Plan, rule: Rule, clip_norm: float
) -> list[Update]:
    """Train all ``entries`` at once and return their updates in the same order.

    Args:
        entries: one, or many with the same ``rows`` and round if ``plan.many`` and
            ``rule`` is direct.
        plan: the model of all of them.
        rule: a fresh rule.
        clip_norm: largest L2 norm of a gradient; 0 for no limit; one entry only.
    """
    order = sorted(range(len(entries)), key=lambda i: -entries[i].steps)
    with reproducible(), torch.no_grad():
        cohort = Cohort([entries[i] for i in order], plan, rule, clip_norm)
        updates = dict(zip(order, cohort.run(), strict=True))
    return [updates[i] for i in range(len(entries))]


class Cohort:
    """Models that train side by side, those with more steps first."""

    def __init__(
        self, entries: Sequence[Entry], plan: Plan, rule: Rule, clip_norm: float
    ) -> None:
        self.entries, self.plan, self.rule = entries, plan, rule
        self.rows, self.feed = entries[0].rows, Feed(entries)
        self.weights = {name: _stacked(entries, name) for name, _ in plan.shapes}
        # Many entries have no terms, so the first one's stand for all.
        self.terms = terms_of(self.weights, entries[0].work, clip_norm)
        self.log_ps = torch.empty(entries[0].steps, len(entries), 1, self.rows)

    def run(self) -> list[Update]:
        """Take all steps; return the updates in the order of the entries."""
        step, active = 0, len(self.entries)
        while active:
            until = self.entries[active - 1].steps
            self._walk(range(step, until), active)
            step = until
            while active and self.entries[active - 1].steps == step:
                active -= 1  # those that are done are the last ones
        return [self._update(i, e) for i, e in enumerate(self.entries)]

    def _walk(self, steps: range, active: int) -> None:
        """Take ``steps`` with the first ``active`` models."""
        weights = {name: w[:active] for name, w in self.weights.items()}
        net = Network(self.plan, weights, self.rule, self.terms, self.rows)
        for step in steps:
            net.step(*self.feed.batch(active), self.log_ps[step, :active])

    def _update(self, index: int, e: Entry) -> Update:
        now = {name: w[index] for name, w in self.weights.items()}
        if len(self.entries) == 1:  # the weights are not needed any more
            moved = {n: now[n].sub_(t).contiguous() for n, t in e.work.params.items()}
        else:
            moved = {n: torch.sub(now[n], t) for n, t in e.work.params.items()}
        log_p = self.log_ps[: e.steps, index].contiguous().sum().item()
        metrics = {"loss": -log_p / (e.steps * self.rows), "steps": float(e.steps)}
        return Update(e.peer, e.work.version, moved, e.task.examples, metrics)


class Network:
    """A plan on stacked ``weights``, with room for one batch of ``rows`` a model."""

    def __init__(
        self, plan: Plan, weights: Params, rule: Rule, terms: Terms, rows: int
    ) -> None:
        self.first = plan.first
        self.weights, self.grads = list(weights.values()), list[Tensor]()
        self.rule, self.terms = rule, terms
        if rule.direct and terms.none:
            keep, rate = rule.direct
            sinks = {n: Sink(w, keep, -rate / rows) for n, w in weights.items()}
        else:
            self.grads = [torch.empty_like(w) for w in self.weights]
            named = zip(weights, self.grads, strict=True)
            sinks = {n: Sink(g, 0.0, 1.0 / rows) for n, g in named}
        self.layers = [build(layer, weights, sinks) for layer in plan.layers]
        self.layers[-1] = Dense(plan.last, weights, sinks, turn=True)
        self.head = Head(len(self.weights[0]), rows, len(weights[plan.last.weight][0]))

    def step(self, x: Tensor, y: Tensor, share: Tensor | None, log_p: Tensor) -> None:
        """Take one step and note how probable the model found each ``y``.

        Args:
            x: inputs, (m, b, ...).
            y: class numbers, (m, 1, b).
            share: what each row counts, (m, 1, b), times 1 / b; None if all count 1.
            log_p: out: logarithm of the probability of ``y``, (m, 1, b).
        """
        for layer in self.layers:
            x = layer.forward(x)
        grad = self.head.gradient(x, y, share, log_p)
        for layer in reversed(self.layers[self.first + 1 :]):
            grad = layer.backward(grad, first=False)
        self.layers[self.first].backward(grad, first=True)
        if self.grads:
            self.terms.apply(self.weights, self.grads)
            self.rule.step(self.weights, self.grads)


class Head:
    """Cross-entropy of m models over b rows each, and its gradient.

    Classes come before rows here, (m, classes, b): a softmax over few classes is
    ten times faster when the rows lie side by side.
    """

    def __init__(self, m: int, b: int, classes: int) -> None:
        self.log_p = torch.empty(m, classes, b)
        self.grad = room(m, classes, b)
        self.minus = torch.full((m, 1, b), -1.0)

    def gradient(
        self, scores: Tensor, y: Tensor, share: Tensor | None, log_p: Tensor
    ) -> Tensor:
        """Return the gradient of the summed loss by ``scores``, (m, b, classes)."""
        torch._log_softmax(scores.mT, 1, False, out=self.log_p)
        torch.gather(self.log_p, 1, y, out=log_p)
        torch.exp(self.log_p, out=self.grad)
        minus = self.minus
        if share is not None:
            log_p.mul_(share)
            self.grad.mul_(share)
            minus = -share
        return self.grad.scatter_add_(1, y, minus).mT


def _stacked(entries: Sequence[Entry], name: str) -> Tensor:
    """Return a copy of every entry's weight ``name``, (m, ...)."""
    parts = [e.work.params[name] for e in entries]
    if parts[0].ndim == 4:  # a convolution: one model, channels last
        return parts[0].contiguous(memory_format=ROWS_LAST).clone().unsqueeze(0)
    return beside(parts)
