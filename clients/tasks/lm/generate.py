"""Text that a next-token model writes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clients.tasks.lm.words import Words
from fedcore.errors import ConfigError
from fedcore.seeds import uniform


def written(
    model: nn.Module,
    words: Words,
    prompt: str,
    tokens: int,
    *,
    context: int,
    seed: int | None = None,
    heat: float = 0.8,
) -> str:
    """Return what ``model`` writes after ``prompt``.

    Args:
        model: token numbers (1, positions) -> scores (1, vocabulary, positions).
        words: its tokenizer.
        prompt: some text, at least one token.
        tokens: most tokens to write, >= 1; the token that ends a text stops earlier.
        context: positions that it looks back, >= 1.
        seed: names the draws; None takes the likeliest token each time.
        heat: temperature of the draws, > 0; below 1 keeps to the likely.

    Raises:
        ConfigError: the prompt is empty, or a number is out of its range.
    """
    start = words.numbers(prompt)
    if not start or tokens < 1 or not heat > 0:
        raise ConfigError(
            f"to write, give a prompt that is not empty, tokens >= 1 ({tokens}) and "
            f"a heat > 0 ({heat})"
        )
    chosen = _likeliest if seed is None else _drawn(seed, heat)
    line, was_training = list(start), model.training
    model.eval()
    with torch.no_grad():
        for place in range(tokens):
            scores = model(torch.tensor([line[-context:]]))[0, :, -1]
            token = chosen(scores.double(), place)
            if token == words.end:
                break
            line.append(token)
    model.train(was_training)
    return words.text(line[len(start) :])


def _likeliest(scores: Tensor, place: int) -> int:
    return int(scores.argmax())


def _drawn(seed: int, heat: float) -> Callable[[Tensor, int], int]:
    """Return what draws a token in proportion to exp(score / heat)."""

    def draw(scores: Tensor, place: int) -> int:
        shares = (scores / heat).softmax(0).cumsum(0)
        at = uniform("token", seed, place) * float(shares[-1])
        return min(int(torch.searchsorted(shares, at)), len(shares) - 1)

    return draw
