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
from sims.cli.progress import figures

WIDE = 110  # columns of a terminal with room for the bar


def console() -> Console:
    """Return the terminal behind stderr."""
    return Console(stderr=True)


@dataclass
class Live:
    """One line with a bar, the last figures and the time left, redrawn in place."""

    console: Console
    _bar: Progress = field(init=False)

    def __post_init__(self) -> None:
        bar = [BarColumn(bar_width=20)] if self.console.width >= WIDE else []
        self._bar = Progress(
            TextColumn("[bold]{task.completed}/{task.total}"),
            *bar,
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )

    def start(self, name: str, done: int, rounds: int) -> None:
        self.note(f"{name}: {rounds} rounds")
        self._bar.start()
        self._bar.add_task(name, total=rounds, completed=done, figures="")

    def row(self, row: Row) -> None:
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=row.round, figures=figures(row))

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)

    def end(self) -> None:
        self._bar.stop()
