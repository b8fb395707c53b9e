"""What a run says while it works: a live line on a terminal, plain lines elsewhere.

A ``Progress`` hears of the start, of every row and of the end. The live one
(``sims.cli.live``) redraws one line with a bar; the plain one writes a line a round;
the JSON one writes an object a line to stdout for programs; the silent one says
nothing.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from fedcore.metrics import Row, plain
from sims.report.chart import number


class Progress(Protocol):
    """Someone who watches a run."""

    def start(self, name: str, done: int, rounds: int) -> None:
        """The run called ``name`` begins, with ``done`` of ``rounds`` rounds folded."""
        ...

    def row(self, row: Row) -> None:
        """A round was folded."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line of its own happened."""
        ...

    def end(self) -> None:
        """The run ended, well or not."""
        ...


class Silent:
    """Says nothing."""

    def start(self, name: str, done: int, rounds: int) -> None:
        return None

    def row(self, row: Row) -> None:
        return None

    def note(self, text: str) -> None:
        return None

    def end(self) -> None:
        return None


@dataclass
class Plain:
    """A line a round, for logs and pipes.

    Attributes:
        write: takes a line with its end.
    """

    write: Callable[[str], object]
    _rounds: int = 0

    def start(self, name: str, done: int, rounds: int) -> None:
        self._rounds = rounds
        self.write(f"{opening(name, done, rounds)}\n")

    def row(self, row: Row) -> None:
        self.write(f"round {row.round}/{self._rounds}: {figures(row)}\n")

    def note(self, text: str) -> None:
        self.write(f"{text}\n")

    def end(self) -> None:
        return None


@dataclass
class JsonLines:
    """An object a line: ``{"event": "start" | "round" | "note", ...}``."""

    out: TextIO

    def start(self, name: str, done: int, rounds: int) -> None:
        self._say({"event": "start", "run": name, "done": done, "rounds": rounds})

    def row(self, row: Row) -> None:
        self._say({"event": "round", **row.json()})

    def note(self, text: str) -> None:
        self._say({"event": "note", "text": text})

    def end(self) -> None:
        return None

    def _say(self, value: Mapping[str, Any]) -> None:
        self.out.write(json.dumps(plain(value)) + "\n")
        self.out.flush()


def progress_for(*, json_lines: bool, quiet: bool) -> Progress:
    """Return who watches, given the flags and whether stderr is a terminal."""
    if quiet:
        return Silent()
    if json_lines:
        return JsonLines(sys.stdout)
    if sys.stderr.isatty():
        from sims.cli.live import Live, console  # rich takes a while to load

        return Live(console())
    return Plain(sys.stderr.write)


def opening(name: str, done: int, rounds: int) -> str:
    """Return the first line of a run: new, or gone on with."""
    if done:
        return f"{name} goes on after round {done} of {rounds}"
    return f"{name} starts: {rounds} round{'' if rounds == 1 else 's'}"


def figures(row: Row) -> str:
    """Return the figures of a round that a person wants to see."""
    return " · ".join([*held_out(row), *training(row), *answers(row)])


def held_out(row: Row) -> list[str]:
    """Return the main figures on held-out examples, if the round was evaluated."""
    return [
        f"{name} {row.eval[name]:{form}}"
        for name, form in (("accuracy", ".4f"), ("loss", ".4f"), ("perplexity", ".4g"))
        if name in row.eval
    ]


def training(row: Row) -> list[str]:
    """Return the clients' own loss, if they told it."""
    return [] if row.train_loss is None else [f"training loss {row.train_loss:.4f}"]


def answers(row: Row) -> list[str]:
    """Return who answered, the bytes both ways, and what went wrong or came late."""
    down, up = number(row.down_bytes, "bytes"), number(row.up_bytes, "bytes")
    troubles = {"refused": sum(row.refused.values()), "lost": row.lost}
    late = [f"staleness {row.staleness:.1f}"] if row.staleness else []
    bad = [f"{count} {name}" for name, count in troubles.items() if count]
    return [f"{row.clients} clients ↓{down} ↑{up}", *late, *bad]
