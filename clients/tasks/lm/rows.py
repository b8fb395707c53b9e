"""Texts as rows of token numbers, and the rows of whole owners held out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clients.tasks.dataset import Examples, Rows
from clients.tasks.lm.corpus import Record
from clients.tasks.lm.measure import IGNORED
from clients.tasks.lm.words import Words
from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.seeds import choose

Owned = Mapping[str, tuple[Rows, Rows]]  # owner -> inputs and targets, row by row
WAYS = ("owners", "tail")


def windows(words: Words, lines: Mapping[str, Sequence[str]], window: int) -> Owned:
    """Return the texts of each owner, one after the other, cut into windows.

    The target of each token is the one after it. Windows touch and do not overlap;
    the last is filled up. An owner with fewer than two tokens has none.

    Args:
        words: the tokenizer.
        lines: texts of each owner.
        window: positions, >= 1.

    Returns:
        For each owner, inputs and targets of shape (n, window).
    """
    owned = {}
    for owner, said in lines.items():
        numbers = np.array(words.numbers("\n".join(said)), dtype=np.int64)
        if len(numbers) > 1:
            owned[owner] = (
                _filled(numbers[:-1], window, words.pad),
                _filled(numbers[1:], window, IGNORED),
            )
    return owned


def _filled(numbers: Rows, window: int, filler: int) -> Rows:
    """Return ``numbers`` as rows of ``window``, the last filled up."""
    count = -(-len(numbers) // window)
    rows = np.full(count * window, filler, dtype=np.int64)
    rows[: len(numbers)] = numbers
    return rows.reshape(count, window)


def answers(words: Words, found: Iterable[Record], window: int) -> Owned:
    """Return one row for each question with its answer; only answers are learned.

    Targets on the question and behind the answer's end are -100. What does not fit
    into the window is cut off at its end; a row whose question fills it is left out.

    Args:
        words: the tokenizer.
        found: records with prompts.
        window: positions, >= 1.
    """
    rows: dict[str, list[tuple[Rows, Rows]]] = {}
    end = [] if words.end is None else [words.end]
    for record in found:
        prompt = words.numbers(record.prompt)
        whole = [*prompt, *words.numbers(record.text), *end][: window + 1]
        if max(1, len(prompt)) < len(whole):
            told = [IGNORED] * (len(prompt) - 1) + whole[max(1, len(prompt)) :]
            row = _padded(whole[:-1], window, words.pad)
            rows.setdefault(record.owner, []).append((row, _padded(told, window)))
    return {owner: _stacked(pairs) for owner, pairs in rows.items()}


def _padded(numbers: Sequence[int], window: int, filler: int = IGNORED) -> Rows:
    row = np.full(window, filler, dtype=np.int64)
    row[: len(numbers)] = numbers
    return row


def _stacked(pairs: Sequence[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    inputs, targets = zip(*pairs, strict=True)
    return np.stack(inputs), np.stack(targets)


def classes(
    words: Words, found: Iterable[Record], window: int, labels: Sequence[str]
) -> Owned:
    """Return one row for each text, cut or filled up, with the number of its label."""
    rows: dict[str, list[tuple[Rows, Rows]]] = {}
    for record in found:
        numbers = words.numbers(record.text, marked=True)[:window]
        pair = _padded(numbers, window, words.pad), np.array(labels.index(record.label))
        rows.setdefault(record.owner, []).append(pair)
    return {owner: _stacked(pairs) for owner, pairs in rows.items()}


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to learn from and rows held out; groups number the owners by name."""

    train: Examples
    test: Examples
    groups: Rows
    test_groups: Rows


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which rows nobody trains on.

    Attributes:
        way: ``"owners"``, all rows of some owners, who take part in no training;
            ``"tail"``, the last rows of every owner, so that each can be tested on
            its own. One owner alone always has its tail held out.
        share: of the owners or of each owner's rows, in (0, 0.5].
        most: rows held out of the held-out owners, evenly drawn; 0 for all.

    Raises:
        ConfigError: there is no such way, or a number is out of its range.
    """

    way: str = "owners"
    share: float = 0.1
    most: int = 0

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ConfigError(
                f"no way {self.way!r} to hold out; {nearest(self.way, WAYS)}"
            )
        if not 0 < self.share <= 0.5 or self.most < 0:
            raise ConfigError(
                f"test_share is {self.share} and most_held_out {self.most}, but they "
                "must be above 0 and at most 0.5, and at least 0"
            )

    def split(self, owned: Owned, name: str) -> Split:
        """Return the rows of ``owned``, split; ``name`` of the task names the draw.

        Raises:
            ConfigError: there are too few rows.
        """
        owners = sorted(owned)
        if self.way == "owners" and len(owners) > 1:
            count = max(1, round(self.share * len(owners)))
            out = set(choose(len(owners), count, "held-out owners", name))
            cuts = [0 if i in out else len(owned[o][0]) for i, o in enumerate(owners)]
        else:
            cuts = [_cut(len(owned[o][0]), self.share) for o in owners]
        learned = [(x[:c], y[:c]) for (x, y), c in _both(owned, owners, cuts)]
        held = [(x[c:], y[c:]) for (x, y), c in _both(owned, owners, cuts)]
        if not (sum(cuts) and any(len(x) for x, _ in held)):
            raise ConfigError(
                f"task {name!r}: {len(owners)} owners have {sum(map(_rows, learned))} "
                f"rows to learn from and {sum(map(_rows, held))} to hold out, too few: "
                "give more text, or lower task.window"
            )
        most = self.most if self.way == "owners" else 0
        train, groups = _joined(learned, 0)
        test, test_groups = _joined(held, most)
        return Split(train, test, groups, test_groups)


Pair = tuple[Rows, Rows]


def _both(
    owned: Owned, owners: Sequence[str], cuts: Sequence[int]
) -> Iterable[tuple[Pair, int]]:
    return zip((owned[owner] for owner in owners), cuts, strict=True)


def _rows(pair: Pair) -> int:
    return len(pair[0])


def _cut(count: int, share: float) -> int:
    """Return how many of ``count`` rows of an owner are learned."""
    return count - max(1, round(share * count)) if count > 1 else count


def _joined(pairs: Sequence[Pair], most: int) -> tuple[Examples, Rows]:
    """Return the rows of all owners, and the number of each row's owner.

    Args:
        pairs: inputs and targets of each owner.
        most: rows to keep, evenly drawn; 0 for all.
    """
    groups = np.repeat(np.arange(len(pairs)), [_rows(pair) for pair in pairs])
    x, y = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    count = len(x)
    kept = np.arange(most) * count // most if 0 < most < count else np.arange(count)
    return (torch.from_numpy(x[kept]), torch.from_numpy(y[kept])), groups[kept]
