"""The losses of KAFAL: balanced softmax, and a server's advice on mixed inputs.

``strategies.kafal`` has the source, the notation and the departures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from clients.trainers.around import Around
from clients.trainers.pool import Pool, Rows
from fedcore.seeds import words
from fedcore.task import Batch

Advice = tuple[Tensor, Tensor]  # mixed inputs (b, ...) and what each counts (b,)


def adjusted(scores: Tensor, counts: Tensor) -> Tensor:
    """Return log shares of the classes seen, (n, seen), after adding log counts.

    A class never seen is left out: its logarithm would be minus infinity, and a
    divergence of two such shares is not a number.

    Args:
        scores: of a model, (n, classes).
        counts: labelled examples of each class, (classes,), some above 0.
    """
    seen = counts > 0
    return log_softmax(scores[:, seen] + counts[seen].log(), dim=1)


def disagreement(ours: Tensor, theirs: Tensor, counts: Tensor) -> Tensor:
    """Return KSAS: the mean of both divergences of adjusted shares, (n,), >= 0.

    Args:
        ours: scores of one model, (n, classes).
        theirs: scores of the other, (n, classes).
        counts: labelled examples of each class, (classes,).
    """
    p, q = adjusted(ours, counts), adjusted(theirs, counts)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(1)


def entropy(scores: Tensor) -> Tensor:
    """Return the entropy of the shares of the classes, in nats, (n,)."""
    logs = log_softmax(scores, dim=1)
    return -(logs.exp() * logs).sum(1)


def rarity(counts: Tensor) -> Tensor:
    """Return weights of the classes that sum to 1: the rarer, the more; unseen none."""
    inverse = torch.where(counts > 0, 1 / counts.clamp_min(1), 0)
    return inverse / inverse.sum()


@dataclass(frozen=True, slots=True)
class Mixer:
    """Draws mixed pairs of unlabelled inputs.

    Attributes:
        pool: where inputs are.
        rows: the unlabelled examples of ``pool``, at least one.
        worth: what each of them counts, by the class the server sees in it.
    """

    pool: Pool
    rows: Rows
    worth: Tensor

    def draw(self, size: int, seed: int, step: int) -> Advice:
        """Return ``size`` mixed inputs; each has a partner and a share of its own."""
        drawn = words(5 * size, "mix", seed, step).reshape(5, size)
        u, v = (drawn[:2] % np.uint64(len(self.rows))).astype(np.int64)
        three = (drawn[2:] >> np.uint64(11)) / 2.0**53
        share = torch.from_numpy(np.median(three, axis=0)).float()  # Beta(2, 2)
        x, y = (self.pool.inputs(self.rows[i]) for i in (u, v))
        wide = share.view(-1, *[1] * (x.ndim - 1))
        worth = share * self.worth[u] + (1 - share) * self.worth[v]
        return wide * x + (1 - wide) * y, worth


@dataclass(frozen=True, slots=True)
class Balanced(Around):
    """A task whose loss makes up for rare classes, and heeds the server's model.

    Attributes:
        task: the labelled examples; its batches are pairs (x, class).
        counts: labelled examples of each class, (classes,).
        mixer: draws what the server is asked about; None asks nothing.
        server: the server's model, in evaluation; None asks nothing.
    """

    counts: Tensor
    mixer: Mixer | None = None
    server: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        for step, (x, y) in enumerate(self.task.batches(seed)):
            yield (x, y, *(self.mixer.draw(len(y), seed, step) if self.mixer else ()))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y, *advice = batch
        shift = self.counts.log().to(x.device)  # minus infinity where no y can be
        loss = cross_entropy(model(x) + shift, y)
        if self.server is None or not advice:
            return loss
        return loss + compensation(self.server, model, *advice)


def compensation(
    server: nn.Module, model: nn.Module, x: Tensor, worth: Tensor
) -> Tensor:
    """Return how far ``model`` is from ``server`` on ``x``, by ``worth``, shape ().

    The divergence KL(server || model) is divided by the number of classes, as in the
    released code.
    """
    with torch.no_grad():
        theirs = log_softmax(server(x), dim=1)
    apart = (theirs.exp() * (theirs - log_softmax(model(x), dim=1))).mean(1)
    return (worth * apart).mean()
