"""A run's progress on a terminal: one line with a bar, redrawn in place by rich."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from fedcore.metrics import Row
from sims.cli.progress import answers, held_out, opening, training

WIDE = 110  # columns of a terminal with room for the bar


def console() -> Console:
    """Return the terminal behind stderr."""
    return Console(stderr=True)


@dataclass
class Live:
    """One line with a bar, the last figures and the time left, redrawn in place.

    Held-out figures stay until the next evaluation; the training loss is shown where
    there is room.
    """

    console: Console
    _bar: Progress = field(init=False)
    _held_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        bar = [BarColumn(bar_width=20)] if self.console.width >= WIDE else []
        self._bar = Progress(
            TextColumn("[bold]{task.completed}/{task.total}"),
            *bar,
            TextColumn("{task.fields[figures]}"),
            TextColumn("ETA" if self.console.width >= WIDE else ""),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )

    def start(self, name: str, done: int, rounds: int) -> None:
        self.note(opening(name, done, rounds))
        self._forget()
        self._bar.start()
        self._bar.add_task(name, total=rounds, completed=done, figures="")

    def row(self, row: Row) -> None:
        task = self._bar.task_ids[0]
        self._held_out = held_out(row) or self._held_out
        wide = self.console.width >= WIDE or not self._held_out
        parts = [*self._held_out, *(training(row) if wide else []), *answers(row)]
        self._bar.update(task, completed=row.round, figures=" · ".join(parts))

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)

    def end(self) -> None:
        self._bar.stop()

    def _forget(self) -> None:
        """Clear what an earlier run, such as the last cell of a sweep, has left."""
        self._held_out = []
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
