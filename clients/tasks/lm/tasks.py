"""The language tasks: settings as dataclasses that make a ``Dataset``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from clients.tasks.catalog import packaged
from clients.tasks.dataset import Dataset
from clients.tasks.lm import corpus
from clients.tasks.lm.measure import NextTokenFigures, class_figures, token_loss
from clients.tasks.lm.models import Pretrained, causal, encoder
from clients.tasks.lm.offsite import Offsite, PluggedIn, emulator
from clients.tasks.lm.rows import HoldOut, Owned, Split, answers, classes, windows
from clients.tasks.lm.tune import Tune, next_token, text_class
from clients.tasks.text import Lines, messages, plays
from fedcore.errors import ConfigError

SPEECH = 8  # lines in one text of the task lm-genres


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTask(ABC):
    """What all language tasks can be told.

    Attributes:
        model: ``"glass"``, ``"glass-pt"``, ``"minilm"``, ``"smollm2"``, or a folder.
        tune: what is trained: ``"full"``, ``"lora"`` or ``"prompt"``.
        rank: of LoRA, or the number of prompt vectors, >= 1.
        offsite: share of the middle layers that clients get, the rest stays with the
            owner of the model; 0 is no offsite tuning (``clients.tasks.lm.offsite``).
        ends: layers at each end that are trained in offsite tuning, >= 1.
        dtype: of the model's weights, ``"float32"`` or ``"bfloat16"``; matrices of LoRA
            and prompts are float32 always.
        checkpointing: compute activations twice, to need less memory.
        window: tokens in a row, >= 1.
        batch_size: rows in a training batch, >= 1.
        held_out: ``"owners"`` holds whole owners out of training, ``"tail"`` the last
            rows of every owner.
        test_share: the share that is held out, in (0, 0.5].
        most_held_out: rows of held-out owners to evaluate on; 0 for all.
    """

    model: str = "glass"
    tune: str = "full"
    rank: int = 8
    offsite: float = 0.0
    ends: int = 1
    dtype: str = "float32"
    checkpointing: bool = False
    window: int = 64
    batch_size: int = 8
    held_out: str = "owners"
    test_share: float = 0.1
    most_held_out: int = 400
    writes: ClassVar[bool] = True  # whether the model tells next tokens

    @abstractmethod
    def dataset(self) -> Dataset:
        """Return the learning problem.

        Raises:
            ConfigError: a setting is wrong, or the model or the data are not here.
        """

    def tuned(self) -> Tune:
        """Return what is trained."""
        return Tune(self.tune, self.rank)

    def pretrained(self) -> Pretrained:
        """Return the causal model that training starts from."""
        return causal(self.model, self.dtype, self.checkpointing)

    def cut(self) -> Offsite | None:
        """Return how clients get only a part of the model; None if they get all.

        Raises:
            ConfigError: it is asked for together with another way to tune.
        """
        if self.offsite and self.tune != "full":
            raise ConfigError(
                f"task.offsite trains whole layers, and task.tune is {self.tune!r}: "
                "leave one of them out"
            )
        return Offsite(self.offsite, self.ends) if self.offsite else None

    def split(self, owned: Owned, name: str) -> Split:
        """Return the rows of ``owned`` as the settings of the task split them."""
        return HoldOut(self.held_out, self.test_share, self.most_held_out).split(
            owned, name
        )

    def room(self, model: Pretrained) -> int:
        """Return the tokens that ``model`` takes at once."""
        return model.context - (self.rank if self.tune == "prompt" else 0)

    def checked(self, model: Pretrained) -> Pretrained:
        """Return ``model`` if the window fits it.

        Raises:
            ConfigError: it does not.
        """
        room = self.room(model)
        if not 1 <= self.window <= room:
            raise ConfigError(
                f"task.window is {self.window}, but the model {self.model!r} takes "
                f"1 to {room} tokens"
            )
        return model


def _next_token(
    task: LanguageTask, name: str, owned: Owned, *, questions: bool = False
) -> Dataset:
    """Return the data set of a causal model on rows of token numbers."""
    rows, model = task.split(owned, name), task.pretrained()
    figures = NextTokenFigures(_vocabulary(model.core), questions)
    make: Callable[[], nn.Module] = partial(next_token, model, task.tuned())
    if offsite := task.cut():
        make = partial(emulator, model, offsite)
    return Dataset(
        name,
        rows.train,
        rows.test,
        make,
        loss=token_loss,
        batch_size=task.batch_size,
        groups=rows.groups,
        test_groups=rows.test_groups,
        metrics={},
        measure=PluggedIn(figures, model, offsite) if offsite else figures,
    )


def _vocabulary(core: nn.Module) -> int:
    return int(core.config.vocab_size)  # type: ignore[union-attr, arg-type]


def _lines(task: LanguageTask, name: str, lines: Lines) -> Dataset:
    """Return the data set of a causal model on what each owner said."""
    words = task.checked(task.pretrained()).words
    if not lines:
        raise ConfigError(f"task {name!r}: nobody says enough: lower task.min_lines")
    return _next_token(task, name, windows(words, lines, task.window))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shakespeare(LanguageTask):
    """The next token of 38 plays; owners are the speaking parts.

    Attributes:
        min_lines: parts with fewer lines are left out, >= 1.
    """

    min_lines: int = 100

    def dataset(self) -> Dataset:
        return _lines(self, "lm-shakespeare", plays(self.min_lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chitchat(LanguageTask):
    """The next token of chat messages; owners are the users.

    Attributes:
        min_lines: users with fewer messages are left out, >= 1.
    """

    min_lines: int = 50

    def dataset(self) -> Dataset:
        return _lines(self, "lm-chitchat", messages(self.min_lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText(LanguageTask):
    """The next token of your own texts, or the answers to your own questions.

    Attributes:
        data: a ``.jsonl``, ``.csv`` or ``.txt`` file, or a folder of ``.txt`` files.
        user: the column that names the owner; "" looks for ``user``.
    """

    data: str = ""
    user: str = ""

    def dataset(self) -> Dataset:
        found = _own(self.data, self.user)
        words = self.checked(self.pretrained()).words
        if not found[0].prompt:
            owned = windows(words, corpus.lines_by_owner(found), self.window)
            return _next_token(self, "lm-own", owned)
        owned = answers(words, found, self.window)
        if not owned:
            raise ConfigError(
                f"every question of {self.data} fills task.window ({self.window}): "
                "raise it"
            )
        return _next_token(self, "lm-own", owned, questions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genres(LanguageTask):
    """Which of six kinds of play a speech of Shakespeare is from.

    Attributes:
        min_lines: speaking parts with fewer lines are left out, >= 1.
    """

    min_lines: int = 100
    writes: ClassVar[bool] = False

    def dataset(self) -> Dataset:
        files = packaged("shakespeare").rglob("*.md")
        genres = {path.stem: path.parent.name for path in files}
        found = [
            corpus.Record(part, "\n".join(lines[i : i + SPEECH]), label=genres[play])
            for part, lines in plays(self.min_lines).items()
            for play in [part.partition(":")[0]]
            for i in range(0, len(lines) - SPEECH + 1, SPEECH)
        ]
        return _classes(self, "lm-genres", found)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnClasses(LanguageTask):
    """The label of your own texts.

    Attributes:
        data: a ``.jsonl`` or ``.csv`` file with columns ``text`` and ``label``.
        user: the column that names the owner; "" looks for ``user``.
    """

    data: str = ""
    user: str = ""
    writes: ClassVar[bool] = False

    def dataset(self) -> Dataset:
        return _classes(self, "lm-own-classes", _own(self.data, self.user))


def _own(data: str, user: str) -> list[corpus.Record]:
    if not data:
        raise ConfigError("say which text: --set task.data=./texts.jsonl")
    return corpus.records(data, user)


def _classes(task: LanguageTask, name: str, found: Sequence[corpus.Record]) -> Dataset:
    """Return the data set of a classifier of texts."""
    if task.offsite:
        raise ConfigError("task.offsite is for next-token tasks: leave it out")
    labels = sorted({record.label for record in found})
    if len(labels) < 2 or "" in labels:
        raise ConfigError(
            f"task {name!r} needs texts of two or more classes, each with a label; "
            f"found labels {labels[:5]}"
        )
    model = task.checked(encoder(task.model, task.dtype, task.checkpointing))
    rows = task.split(classes(model.words, found, task.window, labels), name)
    return Dataset(
        name,
        rows.train,
        rows.test,
        partial(text_class, model, task.tuned(), len(labels)),
        batch_size=task.batch_size,
        groups=rows.groups,
        test_groups=rows.test_groups,
        measure=class_figures,
    )
