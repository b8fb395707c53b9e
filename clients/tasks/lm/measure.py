"""Figures of language models on held-out rows, weighed by what counts in each row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.tasks.dataset import paired

IGNORED = -100  # a target that counts nothing, as in torch's cross_entropy
MOST_SCORES = 1 << 24  # numbers that one forward pass gives out, 64 MB in float32
MOST_LOSS = 700.0  # exp of more is no float


def token_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the targets that count, shape ().

    Args:
        scores: (n, vocabulary, positions).
        targets: token numbers, (n, positions); -100 counts nothing.
    """
    rows = scores.transpose(1, 2).flatten(0, 1)  # as the model made them: no copy
    return cross_entropy(rows.float(), targets.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True, slots=True)
class NextTokenFigures:
    """Evaluates next-token models.

    ``loss`` and ``accuracy`` are means over all targets that count, ``perplexity`` is
    exp(loss). ``exact_match``, for questions with answers, is the share of rows where
    every target has the largest score: exactly those that the model, asked to go on
    with the likeliest token, would answer word for word.

    Attributes:
        vocabulary: scores for each position.
        answers: whether rows are questions with answers.
    """

    vocabulary: int
    answers: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, float]:
        """Return the figures of ``model`` on inputs and targets (n, positions)."""
        size = max(1, MOST_SCORES // (self.vocabulary * x.shape[1]))
        loss, right, counted, whole = 0.0, 0, 0, 0
        for scores, targets in outputs(model, x, y, size):
            rows = scores.transpose(1, 2).flatten(0, 1).float()
            told = targets != IGNORED
            loss += float(cross_entropy(rows, targets.flatten(), reduction="sum"))
            hit = (scores.argmax(1) == targets) & told
            right += int(hit.sum())
            counted += int(told.sum())
            whole += int((hit | ~told).all(1).sum())
        mean = loss / counted
        found = {
            "loss": mean,
            "accuracy": right / counted,
            "perplexity": exp(min(mean, MOST_LOSS)),
            "examples": float(len(x)),
        }
        return found | ({"exact_match": whole / len(x)} if self.answers else {})


def class_figures(model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, float]:
    """Return loss and accuracy of a text classifier; see ``NextTokenFigures``."""
    loss, right = 0.0, 0
    for scores, targets in outputs(model, x, y, size=64):
        loss += float(cross_entropy(scores.float(), targets, reduction="sum"))
        right += int((scores.argmax(1) == targets).sum())
    n = len(x)
    return {"loss": loss / n, "accuracy": right / n, "examples": float(n)}


def outputs(
    model: nn.Module, x: Tensor, y: Tensor, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what ``model`` gives out for ``size`` rows at a time, and their targets."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for rows, targets in paired(x, y, size):
                yield model(rows.to(device)), targets.to(device)
    finally:
        model.train(was_training)
