"""Writes ``docs/cli.md`` from the parsers and the configuration, so it cannot be old.

Run: python -m sims.cli.docs > docs/cli.md
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from fedcore.cli import commands, common_parser, full_parser
from fedcore.config import Key, describe
from sims.runs.config import RunConfig

HEAD = """\
# Commands

Written by `python -m sims.cli.docs > docs/cli.md`; a test fails when it is old.

    fedcore sim run                                  FedAvg, ten clients, real digits
    fedcore sim run --set strategy=fedadam --set partition=dirichlet
    fedcore sim init my.toml                         a file with every setting
    fedcore sim run my.toml --name first
    fedcore sim resume                               after Ctrl-C or kill -9; same bits
    fedcore sim list
    fedcore sim compare first fedadam --figure both.png
    fedcore sim verify first                         train again, compare every round
    fedcore sim sweep --grid strategy=fedavg,scaffold --grid trainer.lr=0.05,0.1
    fedcore sim catalog strategy --keys              what there is to choose from

Exit codes: 0 done; 1 failed, with cause and fix in one message; 2 the command line was
wrong; 130 stopped by Ctrl-C. `accuracy` and `loss` are on held-out examples everywhere,
`training loss` is the mean over the clients' own batches. Results go to stdout, what is
said meanwhile to stderr; with `--json` both are objects on stdout, one a line.

## What a run leaves

A folder `runs/<date>-<time>-<name>`, private to its owner:

| file | what |
| --- | --- |
| `config.toml` | every setting of the run; `fedcore sim run` takes it as it is |
| `manifest.json` | seed, versions, git commit, SHA-256 of settings, data and model |
| `clients.json` | how many clients, and the labels that the first ones hold |
| `metrics.jsonl`, `metrics.csv` | one row a round, with the SHA-256 of its model |
| `personal.json` | each client's own accuracy, with the model it would be sent |
| `model.safetensors` | the last model |
| `report.html`, `figures/*.png` | charts; the page works offline |
| `journal/` | checkpoints, from which an interrupted run goes on |
| `run.log`, `lock` | what happened, and which process is at work |

A sweep leaves `sweep.json`, `compare.html`, `compare.png` and one such folder for each
combination in `cells/`.
"""

KEYS = """\
# Settings of a run

In a TOML file: `[section]` and `key = value` (`fedcore sim init` writes one). On the
command line: `--set section.key=value`. A section's `name` chooses what it is; the
column "only for" says which names have a key.
"""


def text() -> str:
    """Return the whole page."""
    parser = full_parser(commands())
    parts = [HEAD, "## Every command\n", _table(common_parser())]
    for child in leaves(parser):
        parts += [f"## {child.prog}\n"]
        parts += [f"{child.description}\n"] if child.description else []
        parts += [_table(child)]
    return "\n".join([*parts, KEYS, *_keys(describe(RunConfig))])


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers below ``parser`` that have no parsers below them."""
    children = [
        child
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for child in action.choices.values()
    ]
    if not children:
        yield parser
    for child in children:
        yield from leaves(child)


def _table(parser: argparse.ArgumentParser) -> str:
    actions = [a for a in parser._actions if a.dest != "help"]
    if not actions:
        return ""
    rows = [
        (_shape(a), (a.help or "").replace("%(default)s", str(a.default)))
        for a in actions
    ]
    return _markdown(("argument", "what"), rows)


def _shape(action: argparse.Action) -> str:
    """Return how ``action`` is written, such as ``--set KEY=VALUE``."""
    name = action.metavar or action.dest.upper()
    word = name if isinstance(name, str) else " ".join(name)
    if not action.option_strings:
        optional = action.nargs in ("?", "*")
        return (
            f"`[{word}]`" if optional else f"`{word}{' ...' if action.nargs else ''}`"
        )
    flags = ", ".join(action.option_strings)
    return f"`{flags}`" if action.nargs == 0 else f"`{flags} {word}`"


def _keys(keys: Sequence[Key]) -> Iterator[str]:
    """Yield a table for each section."""
    for section in dict.fromkeys(key.key.partition(".")[0] for key in keys):
        rows = [
            (f"`{k.key}`", k.type.replace(" | ", ", "), k.default, k.help, k.only_for)
            for k in keys
            if k.key.startswith(f"{section}.")
        ]
        yield f"## [{section}]\n"
        yield _markdown(("key", "type", "default", "meaning", "only for"), rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n"
        for line in lines
    )


if __name__ == "__main__":
    sys.stdout.write(text())
