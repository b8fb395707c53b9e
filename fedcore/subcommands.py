"""Commands that are made of others: ``fedcore sim run``, ``fedcore peer up``.

The module of a command says only how its parts are called; what they do is imported
when it is needed, so that help and completion are quick.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fedcore.cli import EVERYWHERE

Act = Callable[[argparse.Namespace], int | None]
Describe = Callable[[argparse.ArgumentParser], None]
Part = tuple[Act | str, str, Describe]  # what does it, help in one line, its arguments


def no_words(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


@dataclass(frozen=True, slots=True)
class Subcommands:
    """A ``fedcore.cli.Command`` made of parts.

    Attributes:
        name: the word on the command line.
        help: one line for ``fedcore --help``.
        parts: by their words. What does one returns the exit code, or None for 0; it
            may be named, as "module:function".
        package: where those modules are.
        describe: adds the arguments that all parts take.
    """

    name: str
    help: str
    parts: Mapping[str, Part]
    package: str = ""
    describe: Describe = no_words

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the parts to ``parser``; see ``fedcore.cli.Command``."""
        chosen = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for name, (act, text, describe) in self.parts.items():
            child = chosen.add_parser(
                name,
                help=text,
                description=f"{text[:1].upper()}{text[1:]}.",
                epilog=EVERYWHERE,
            )
            self.describe(child)
            describe(child)
            child.set_defaults(_act=act, _leaf=child)

    def run(self, args: argparse.Namespace) -> int:
        """Do the chosen part; see ``fedcore.cli.Command``."""
        act: Any = args._act
        if isinstance(act, str):
            module, _, name = act.partition(":")
            act = getattr(import_module(f"{self.package}.{module}"), name)
        return act(args) or 0


def set_flag(parser: argparse.ArgumentParser, about: str) -> None:
    """Add ``--set KEY=VALUE``, which may be repeated; ``about`` says what it sets."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=about
    )


def json_flag(
    parser: argparse.ArgumentParser, about: str = "one JSON object a line"
) -> None:
    """Add ``--json``; ``about`` says what it prints."""
    parser.add_argument("--json", action="store_true", help=about)


def say(text: str) -> None:
    """Print a line for people, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
