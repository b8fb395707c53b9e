"""``fedcore peer train``: add to a model that all members hold, with no server.

The model is first weights, which any member has, and integers that everybody adds to
(shared seeds, ``docs/shared-seeds.md``). This program asks its own node for the
integers, probes the loss on its own examples along shared directions, tells the node
what to add, and begins again. Nobody waits for anybody; who joins late has the whole
model at once; whoever heard the same facts holds the same weights, bit for bit.

A run names its task, never a file: what an admin writes must not run code here. A
member with a task of its own names it with ``--task``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.peer.asking import home_of
from clients.peer.control import Json, ask
from clients.peer.runs import packed, unpacked
from fedcore.config import build, choice, from_flags
from fedcore.errors import ConfigError, PeerLostError
from fedcore.names import PeerId

if TYPE_CHECKING:
    from clients.tasks.dataset import Dataset, Shard
    from fedcore.orderfree import Origin
    from fedcore.params import Params
    from strategies.fedkseed import FedKSeed
    from strategies.seeded import Seeded

STRATEGIES = {"fedkseed": "strategies.fedkseed:FedKSeed"}
BUSY_S = 2.0  # before a node that is not ready is asked again
MOST_BUSY = 30


@dataclass(frozen=True, slots=True)
class Keys:
    """What a run's settings may be, besides its task.

    Attributes:
        strategy: a FedKSeed.
        seed: of the first weights.
    """

    strategy: Any = choice(STRATEGIES, "fedkseed")
    seed: int = 0


@dataclass
class Trainee:
    """This peer's part in a run.

    Attributes:
        folder: the peer's.
        run: the run's name.
        strategy: how to probe.
        task: our examples.
        base: the first weights.
        me: the peer's id.
    """

    folder: Path
    run: str
    strategy: "FedKSeed"
    task: "Shard"
    base: "Params"
    me: PeerId
    _base_id: str = field(init=False)

    def __post_init__(self) -> None:
        from fedcore.params import digest

        self._base_id = digest(self.base)

    def look(self) -> tuple["Seeded", int]:
        """Return the model as it is now, and of how many additions it is made."""
        from strategies.seeded import Seeded

        found = self._ask({"do": "model", "run": self.run})
        strategy = self.strategy
        pool, scale, line = strategy.shared(), -strategy.lr, unpacked(found)
        state = Seeded(found["seq"], self.base, self._base_id, pool, scale, line)
        return state, found["facts"]

    def turn(self) -> float:
        """Probe, and add what was found; return the mean loss on the way."""
        from clients.trainers import sgd
        from fedcore import ring

        state, _ = self.look()
        update = sgd.SGD()(self.task, self.strategy.work(state, self.me), self.me)
        line = ring.encode(update.payload["coefficients"])
        loss = float(update.metrics.get("loss", float("nan")))
        request = {"do": "contribute", "run": self.run, "loss": loss}
        request |= packed(line.reshape(1, -1))
        self._ask(request)
        return loss

    def _ask(self, request: Json) -> Json:
        """Ask the node, again and again while it is down or not level with others."""
        for _ in range(MOST_BUSY):
            try:
                return ask(self.folder, request)
            except PeerLostError as error:
                last = error
                time.sleep(BUSY_S)
        raise last

    def figures(self) -> dict[str, float | str]:
        """Return how good the model is on held-out examples, and its hash."""
        from fedcore.params import digest
        from fedcore.task import load

        state, facts = self.look()
        model = self.task.model().eval()
        load(model, state.params)
        found = dict(self.task.evaluate(model))
        return {**found, "facts": facts, "weights": digest(state.params)}


def train(args: argparse.Namespace) -> int:
    """Found a run if asked to, then take part in it."""
    folder = home_of(args)
    if args.found:
        _found(folder, args.run, args.set)
    elif args.set:
        raise ConfigError("--set goes with --found: a run's settings never change")
    trainee = joined(folder, args.run, args.share, args.task)
    for number in range(args.turns):
        loss = trainee.turn()
        if (number + 1) % args.every == 0:
            _say(f"turn {number + 1}: loss {loss:.4f}")
    found = trainee.figures()
    words = [f"{k} {v:.4f}" for k, v in found.items() if isinstance(v, float)]
    _say(f"{args.run}: {', '.join(words)}; {found['facts']} additions of all peers")
    _say(f"weights {found['weights']}")
    return 0


def joined(folder: Path, run: str, share: str, own_task: str | None) -> Trainee:
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
    return Trainee(folder, run, keys.strategy, shard, base, me)


def _found(folder: Path, run: str, flags: Sequence[str]) -> None:
    """Write the run and its first weights into the network."""
    import safetensors.torch

    from fedcore.params import digest
    from p2p.state.facts import origin_text

    if ask(folder, {"do": "status"})["role"] != "admin":
        raise ConfigError("only admins begin a run; leave out --found to join one")
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


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
