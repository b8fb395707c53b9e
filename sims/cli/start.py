"""``fedcore sim init`` and ``catalog``: settings to start from, and what there is."""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clients.tasks.catalog import CATALOG
from fedcore.config import describe, dump, from_flags
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError
from fedcore.fields import entries_of
from sims.cli.tables import say, say_json
from sims.runs.config import RunConfig, configured

HEAD = """\
# Settings of a federated run. Train with: fedcore sim run {file}
# Every key is here with its default and may be left out; `--set key=value` changes it.
# What else each `name` may be: fedcore sim catalog --keys
"""

FOLLOWING = ("cohort", "size", "seed")  # of [pacer]; see ``sims.runs.config``

TASK = '''\
"""A task of your own: data, model and loss, in one function."""

import torch
from torch import nn

from clients.tasks.dataset import Dataset


def task(*, hidden: int = 32) -> Dataset:
    """Return the learning problem; its arguments are settings, as in task.hidden=64.

    This one is made up: which corner of a square is a noisy point in? Put your own
    examples in place of it: inputs (n, ...), targets (n,), and some held out.
    """
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(4, (1200,), generator=draw)
    corners = torch.stack([targets % 2, targets // 2], dim=1).float()
    inputs = corners + 0.3 * torch.randn(1200, 2, generator=draw)
    return Dataset(
        name="corners",
        train=(inputs[:1000], targets[:1000]),
        test=(inputs[1000:], targets[1000:]),
        model=lambda: nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 4)
        ),
    )
'''


def init(args: argparse.Namespace) -> int:
    """Write a file of settings, and a task file if one is asked for."""
    flags, files = list(args.set), {}
    if args.task:
        task = Path(args.task)
        if task.suffix != ".py":
            raise ConfigError(f"--task {task}: a task is a Python file: name it *.py")
        files[task] = TASK
        flags.append(f"task.name={task if task.is_absolute() else f'./{task}'}")
    file = Path(args.file)
    settings = dump(configured(from_flags(flags)), with_help=True)
    files[file] = f"{HEAD.format(file=file)}\n{_following(settings, flags)}"
    for path, content in files.items():
        _write_new(path, content, force=args.force)
    say(f"now: fedcore sim run {file}")
    return 0


def _following(settings: str, flags: Sequence[str]) -> str:
    """Comment out the keys that follow ``[run]`` while nobody sets them."""
    before, pacer, rest = settings.partition("[pacer]\n")
    for key in FOLLOWING:
        if not any(flag.startswith(f"pacer.{key}=") for flag in flags):
            note = r"# follows [run] unless set: \g<0>"
            rest = re.sub(rf"(?m)^{key} = .*$", note, rest, count=1)
    return before + pacer + rest


def _write_new(path: Path, content: str, *, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: choose another name, or add --force")
    RealDisk(path.parent).replace(path.name, content.encode())
    say(f"wrote {path}")


def catalog(args: argparse.Namespace) -> int:
    """List what a run can be made of."""
    return list_section(args.section, as_json=args.json, keys=args.keys)


def list_section(wanted: str | None, *, as_json: bool, keys: bool = False) -> int:
    """List what ``wanted`` can be, or every section if it is None."""
    items = [i for i in _items() if wanted in (None, i["section"])]
    if as_json:
        say_json(items)
        return 0
    section = ""
    for item in items:
        if item["section"] != section:
            section = item["section"]
            say(f"[{section}]")
        say(f"  {item['name']:<18} {item['what']}")
        for key in item["keys"] if keys else ():
            default = key["default"] or "(required)"
            say(f"      {key['key']} = {default}  # {key['help']}")
    return 0


def _items() -> Iterator[dict[str, Any]]:
    """Yield every name that a section can have, with its keys."""
    for name, entry in CATALOG.items():
        yield {"section": "task", "name": name, "what": entry.what, "keys": []}
    keys = [asdict(key) for key in describe(RunConfig)]
    for field in entries_of(RunConfig):
        for name in field.choice.names() if field.choice else ():
            own = [
                key
                for key in keys
                if key["only_for"] == name and key["key"].startswith(f"{field.name}.")
            ]
            thing = field.choice.load(name) if field.choice else None
            what = _first_sentence(thing)
            if getattr(thing, "research", False):
                what = f"{what} (research: see its page)"
            yield {"section": field.name, "name": name, "what": what, "keys": own}


def _first_sentence(thing: object) -> str:
    return " ".join((thing.__doc__ or "").partition("\n\n")[0].split())
