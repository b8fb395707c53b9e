"""``fedcore peer train``: add to a model that all members hold, with no server.

The model is first weights, which any member has, and integers that everybody adds to
(shared seeds, ``docs/shared-seeds.md``). This program asks its own node for the
integers, learns from its own examples, tells the node what to add along the shared
directions, and begins again. It learns by gradients (``clients.trainers.along``) or,
with the memory of inference alone, by probing the loss; a run takes both. Nobody waits
for anybody; who joins late has the whole model at once; whoever heard the same facts
holds the same weights, bit for bit.

A run names its task, never a file: what an admin writes must not run code here. A
member with a task of its own names it with ``--task``.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clients.peer import home as homes
from clients.peer.asking import home_of
from clients.peer.control import ask
from clients.peer.trainee import By, Keys, Trainee
from fedcore.config import build, from_flags
from fedcore.errors import ConfigError
from fedcore.subcommands import say

if TYPE_CHECKING:
    from clients.tasks.dataset import Dataset
    from fedcore.orderfree import Origin
    from strategies.fedkseed import FedKSeed


def train(args: argparse.Namespace) -> int:
    """Found a run if asked to, then take part in it."""
    if args.turns < 0 or args.every < 1:
        raise ConfigError("--turns must be 0 or more, and --every 1 or more")
    folder = home_of(args)
    homes.check(folder)
    if args.found:
        _found(folder, args.run, args.set)
    elif args.set:
        raise ConfigError("--set goes with --found: a run's settings never change")
    trainee = joined(folder, args.run, args.share, args.task, args.by)
    if args.turns:
        say(f"adding to {args.run}, on {trainee.task.examples} examples; Ctrl-C stops")
    for number in range(args.turns):
        loss = trainee.turn()
        if (number + 1) % args.every == 0:
            say(f"turn {number + 1}: loss {loss:.4f}")
    _report(trainee, args.out)
    return 0


def _report(trainee: Trainee, out: Path | None) -> None:
    """Say how good the model is now, and write it if asked to."""
    import safetensors.torch

    from fedcore.params import digest

    state, facts = trainee.look()
    found = trainee.judge(state.params)
    examples = found.pop("examples", None)
    words = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    held_out = f" on {examples:.0f} held-out examples" if examples else ""
    say(f"{trainee.run}: {words}{held_out}; {facts} additions of all peers")
    say(f"weights {digest(state.params)}")
    if out is not None:
        params = {name: t.contiguous() for name, t in state.params.items()}
        safetensors.torch.save_file(params, out)
        say(f"written to {out}")


def joined(
    folder: Path, run: str, share: str, own_task: str | None, by: By | None
) -> Trainee:
    """Return this peer's part in ``run``, its first weights fetched and checked.

    Raises:
        ConfigError: there is no such run, it cannot be taken part in, or its first
            weights are not what the run says.
    """
    import safetensors.torch

    from clients.split.asked import share as rows_of
    from fedcore.params import digest
    from p2p.state.facts import origin_text, read_origin

    described = ask(folder, {"do": "run", "run": run})
    lines = described["spec"].splitlines()
    keys, task = read_keys(lines[1:])
    if own_task is not None:
        task["name"] = own_task
    elif "/" in task["name"] or task["name"].endswith(".py"):
        raise ConfigError(f"the run names a file of code, {task['name']}: not run")
    with tempfile.TemporaryDirectory(prefix="fedcore-base-") as place:
        path = Path(place) / "base.safetensors"
        ask(folder, {"do": "get", "content": lines[0], "out": str(path)})
        base = safetensors.torch.load_file(path)
    origin = read_origin(described["origin"])
    mine = _origin(keys.strategy, digest(base))
    if origin_text(mine) != origin_text(origin):
        raise ConfigError(f"the first weights or directions of {run} are others")
    me = ask(folder, {"do": "status"})["peer"]
    shard = rows_of(share, _dataset(task))
    keys = replace(keys, by=by or keys.by)
    return Trainee(folder, run, keys, shard, base, me)


def _found(folder: Path, run: str, flags: Sequence[str]) -> None:
    """Write the run and its first weights into the network."""
    import safetensors.torch

    from fedcore.params import digest
    from p2p.state.facts import origin_text

    status = ask(folder, {"do": "status"})
    if status["role"] != "admin":
        raise ConfigError("only admins begin a run; leave out --found to join one")
    if any(found["run"] == run for found in status["runs"]):
        raise ConfigError(f"there is a run {run} already; join it without --found")
    keys, task = read_keys(flags)
    base = dict(_dataset(task).start(keys.seed))
    with tempfile.TemporaryDirectory(prefix="fedcore-base-") as place:
        path = Path(place) / "base.safetensors"
        safetensors.torch.save_file(base, path)
        put = ask(folder, {"do": "put", "file": str(path), "name": f"{run}-base"})
    settings = [*flags, *([] if any(_is_task(f) for f in flags) else [_USUAL])]
    origin = origin_text(_origin(keys.strategy, digest(base)))
    spec = "\n".join([put["cid"], *settings])
    ask(folder, {"do": "found", "run": run, "spec": spec, "origin": origin})


_USUAL = "task.name=digits"


def _is_task(flag: str) -> bool:
    return flag.startswith("task.name")


def _origin(strategy: "FedKSeed", base_id: str) -> "Origin":
    from fedcore.orderfree import Origin

    return Origin(strategy.shared(), base_id, -strategy.lr)


def read_keys(flags: Sequence[str]) -> tuple[Keys, dict[str, str]]:
    """Return what ``flags`` such as "strategy.lr=0.01" say, and the task's settings.

    Raises:
        ConfigError: a key or value is wrong.
    """
    given = dict(from_flags(flags))
    task = {
        k.partition(".")[2]: str(given.pop(k).value)
        for k in [*given]
        if k.startswith("task.")
    }
    return build(Keys, given), {"name": "digits", **task}


def _dataset(task: dict[str, str]) -> "Dataset":
    from clients.tasks import load_task

    settings = {k: v for k, v in task.items() if k != "name"}
    return load_task(task["name"], settings)
