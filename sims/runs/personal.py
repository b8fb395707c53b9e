"""How well every client is served: figures on its own held-out examples.

One mean hides the clients that a model serves badly, and a strategy with several
models has no one model to evaluate. Here each client is evaluated with the model that
it would be sent next, with what it keeps for itself put in its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch

from clients.trainers.method import reproducible
from fedcore.params import Params, add
from fedcore.strategy import PeerId, Strategy, Work
from fedcore.task import Task, Trainer, load
from sims.runs.spread import Figures


@dataclass(frozen=True, slots=True)
class Tuning:
    """Training that every client does for itself before it is evaluated.

    Attributes:
        trainer: how; its answer never leaves the client.
        steps: local batches, >= 1.
    """

    trainer: Trainer
    steps: int


def personal(
    strategy: Strategy[Any],
    state: Any,
    tasks: Mapping[PeerId, Task],
    kept: Mapping[PeerId, Params] | None = None,
    tuning: Tuning | None = None,
) -> dict[PeerId, Figures]:
    """Return the figures of every client of ``tasks`` with its own model.

    Args:
        strategy: whose ``work`` says which model a client gets; or ``model(state,
            peer)``, where the work has only a part of it (shared seeds).
        state: of the strategy.
        tasks: with each client's own held-out examples (``sims.data.own_rows``).
        kept: what clients keep for themselves; names of weights replace the model's.
        tuning: what they do before; nothing if None.
    """
    found = {}
    for peer, task in tasks.items():
        mine = (kept or {}).get(peer, {})
        work = replace(_next_work(strategy, state, peer), kept=mine)
        found[peer] = _figures(task, work, peer, tuning)
    return found


def _next_work(strategy: Strategy[Any], state: Any, peer: PeerId) -> Work:
    """Return the next work of ``peer``, with the whole model as its ``params``."""
    work = strategy.work(state, peer)
    whole = getattr(strategy, "model", None)
    return work if whole is None else replace(work, params=whole(state, peer))


def _figures(task: Task, work: Work, peer: PeerId, tuning: Tuning | None) -> Figures:
    model = task.model()
    own = model.state_dict()
    params: Params = {
        name: work.kept.get(name, work.params.get(name, t))
        for name, t in own.items()
        if t.is_floating_point()
    }
    if tuning is not None:
        plain = Work(work.version, params, steps=tuning.steps)
        with reproducible():
            params = add(params, tuning.trainer(task, plain, peer).payload)
    with torch.no_grad():
        return task.evaluate(load(model, params).eval())


def some(peers: Mapping[PeerId, Any], most: int) -> list[PeerId]:
    """Return at most ``most`` of ``peers``, evenly spread over their order."""
    names = list(peers)
    step = max(1, ceil(len(names) / most))
    return names[::step]
