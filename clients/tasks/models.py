"""The small models of the named tasks, chosen by a word such as ``"mlp"``.

Images arrive as (n, 1, side, side), tables as (n, columns), text as class
numbers of characters, (n, positions).
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import pad

from fedcore.config import nearest
from fedcore.errors import ConfigError

Factory = Callable[[], nn.Module]


def linear(inputs: int, classes: int) -> nn.Module:
    """Return softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    """Return a network with one hidden layer; 784-128-10 has 101 770 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def cnn(side: int, classes: int) -> nn.Module:
    """Return two 3x3 convolutions of 16 and 32 channels, each pooled, then linear.

    12 810 parameters for ten classes of 28 x 28 images. Images under 12 pixels
    are padded, or nothing would be left after the second pooling.
    """
    border = 1 if side < 12 else 0
    last = ((side + 2 * border - 2) // 2 + 2 * border - 2) // 2  # side after both
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=border),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=border),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * last * last, classes),
    )


class CharMLP(nn.Module):
    """Predict each next character from the ``context`` before it (Bengio et al. 2003).

    Args:
        characters: size of the alphabet.
        width: numbers per embedded character, and hidden units / 4.
        context: characters seen by each prediction.
    """

    def __init__(self, characters: int, width: int = 16, context: int = 8) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(characters, width)
        self.hidden = nn.Conv1d(width, 4 * width, context)
        self.out = nn.Conv1d(4 * width, characters, 1)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x).transpose(1, 2)  # (n, width, positions)
        h = self.hidden(pad(e, (self.context - 1, 0))).relu()  # sees only the past
        scores: Tensor = self.out(h)  # (n, characters, positions)
        return scores


class CharGRU(nn.Module):
    """Predict each next character with a gated recurrent unit over all before it."""

    def __init__(self, characters: int, width: int = 16, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.out = nn.Linear(hidden, characters)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (n, positions, hidden)
        scores: Tensor = self.out(h)
        return scores.transpose(1, 2)  # (n, characters, positions)


class CharBigram(nn.Module):
    """Predict each next character from the one before it: a table of scores."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.scores = nn.Embedding(characters, characters)
        nn.init.zeros_(self.scores.weight)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(x)
        return scores.transpose(1, 2)  # (n, characters, positions)


def for_images(name: str, side: int, classes: int, hidden: int) -> Factory:
    """Return the maker of the model ``name`` for grey square images.

    Raises:
        ConfigError: there is no such model.
    """
    pixels = side * side
    _check_hidden(hidden)
    return _chosen(
        name,
        {
            "cnn": partial(cnn, side, classes),
            "linear": partial(linear, pixels, classes),
            "mlp": partial(mlp, pixels, hidden, classes),
        },
    )


def for_tables(name: str, columns: int, classes: int, hidden: int) -> Factory:
    """Return the maker of the model ``name`` for rows of ``columns`` numbers.

    Raises:
        ConfigError: there is no such model.
    """
    _check_hidden(hidden)
    return _chosen(
        name,
        {
            "linear": partial(linear, columns, classes),
            "mlp": partial(mlp, columns, hidden, classes),
        },
    )


def for_text(name: str, characters: int) -> Factory:
    """Return the maker of the next-character model ``name``.

    Raises:
        ConfigError: there is no such model.
    """
    return _chosen(
        name,
        {
            "gru": partial(CharGRU, characters),
            "linear": partial(CharBigram, characters),
            "mlp": partial(CharMLP, characters),
        },
    )


def _check_hidden(hidden: int) -> None:
    if hidden < 1:
        raise ConfigError(f"the hidden layer has {hidden} units, but needs at least 1")


def _chosen(name: str, makers: dict[str, Factory]) -> Factory:
    if name not in makers:
        raise ConfigError(f"no model {name!r} for this task; {nearest(name, makers)}")
    return makers[name]
