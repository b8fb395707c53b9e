"""The Flower app that the repository root is: ``flwr run .`` trains with it.

The run configuration has the keys of ``fedcore sim run``: ``strategy.name``,
``run.rounds`` and so on. Flower lets the command line change only keys that the app's
``pyproject.toml`` lists; all others fit into ``set``, as ``set="strategy.lr=0.1"``.

Node ``partition-id`` is the peer of that number, so the bits are those of the plain
loop and of ``fedcore sim run``.
"""

import json
import logging
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save

from fedcore.config import from_flags, from_flat
from fedcore.coordinator import Coordinator
from fedcore.desk import Fold, Rules
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError
from fedcore.flower import FlowerLink, LinkLimits, client_app_of
from fedcore.flower.roster import own_name
from fedcore.params import digest
from fedcore.strategy import AnyState
from fedcore.task import Task, Trainer, load
from sims.runs.config import configured
from sims.runs.run import Setup, prepare

OWN_KEYS = ("out", "set")

log = logging.getLogger("flwr")  # what Flower shows to whoever runs the app


def setup_of(run_config: Mapping[str, Any]) -> Setup:
    """Return everything a run needs, as the run configuration says.

    Raises:
        ConfigError: a key, name or value is wrong, or the data are not there.
    """
    torch.set_num_threads(1)  # sums must not depend on the number of cores
    return _setup(tuple(sorted(run_config.items())))


@lru_cache(maxsize=2)
def _setup(items: tuple[tuple[str, Any], ...]) -> Setup:
    listed = {key: value for key, value in items if key not in OWN_KEYS}
    more = shlex.split(str(dict(items).get("set", "")))
    layers = from_flat(listed, "run config"), from_flags(more)
    return prepare(configured(*layers))


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train, log a line a round, and leave the result in the context and on disk."""
    setup = setup_of(context.run_config)
    config = setup.config
    link = FlowerLink(grid, LinkLimits(wait_for=len(setup.tasks)))
    with config.hierarchy.open() as aggregator:
        rules: Rules[Any, Any] = Rules(
            config.strategy, config.pacer, config.gate, aggregator
        )
        coordinator = Coordinator(rules, link, watch=_tell)
        state = coordinator.run(setup.start, config.run.rounds)
    result = _result(setup, state)
    log.info("result: %s", result)
    context.state["result"] = ConfigRecord(dict(result))
    if out := str(context.run_config.get("out", "")):
        _write(Path(out), state, result)


def _tell(fold: Fold[AnyState]) -> None:
    for peer, reason in fold.lost.items():
        log.warning("lost %s: %s", peer, reason)
    for refusal in fold.refused:
        log.warning("refused %s: %s", refusal.peer, refusal.reason)
    if fold.folded:
        log.info("round %d: %d answers", fold.state.version, len(fold.folded))


def _result(setup: Setup, state: AnyState) -> dict[str, int | float | str]:
    whole = setup.dataset.whole()
    figures = whole.evaluate(load(setup.dataset.new_model(), state.params))
    return {"rounds": state.version, "sha256": digest(state.params), **figures}


def _write(folder: Path, state: AnyState, result: Mapping[str, Any]) -> None:
    disk = RealDisk(folder)
    disk.replace("model.safetensors", save(dict(state.params)))
    disk.replace("result.json", json.dumps(result, indent=2).encode())


def _load(context: Context) -> tuple[Task, Trainer]:
    setup, peer = setup_of(context.run_config), own_name(context)
    if peer not in setup.tasks:
        raise ConfigError(
            f"{peer} has no data: there are {len(setup.tasks)} clients; set "
            "run.clients to the number of nodes, and give each a partition-id below it"
        )
    config = setup.config
    trainer = config.privacy.around(config.trainer, config.run.seed)
    return setup.tasks[peer], trainer


client = client_app_of(_load)
