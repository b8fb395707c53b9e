"""The duty ``choose``: train the one of several models that fits the peer best.

Source:
    Ghosh et al., "An Efficient Framework for Clustered Federated Learning", NeurIPS
    2020, Algorithm 1, lines 8 to 12 (IFCA). https://arxiv.org/abs/2006.04088

``work.hints["choices"]`` says how many models there are. ``work.params`` is number
``work.hints["own"]``, 0 if that is not said; the tensor ``name`` of another model j is
``work.aux[f"{j}/{name}"]``. The peer takes its
mean loss with each of them over one pass through its own examples, as in evaluation
(no dropout, running statistics left alone), descends from the best, the first of
equals, and answers with the difference from that one and its number as the figure
``choice``.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from math import inf, isnan

import torch

from clients.trainers.autograd import check_fit, on_device, rows_of
from clients.trainers.local import descend
from clients.trainers.method import Method, device_of, reproducible
from clients.trainers.rules import Rule
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, load, seed_for

MOST = 1000  # models in one work


def choose(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Descend from the model that fits ``task`` best; see the module.

    Raises:
        ProtocolError: a model is missing, or does not fit the task.
    """
    models = models_of(work)
    losses = losses_of(task, work, peer, models, device_of(method.device))
    best = losses.index(min(losses))
    asked = ("do", "choices", "own")
    hints = {k: v for k, v in work.hints.items() if k not in asked}
    own = {k: t for k, t in work.aux.items() if "/" not in k}
    chosen = replace(work, params=models[best], aux=own, hints=hints)
    update = descend(task, chosen, peer, method, rule)
    return replace(update, metrics={**update.metrics, "choice": float(best)})


def models_of(work: Work) -> list[Params]:
    """Return the models that ``work`` offers, number 0 first.

    Raises:
        ProtocolError: their number is not one, or a tensor is missing.
    """
    count, own = work.hints.get("choices"), work.hints.get("own", 0)
    if type(count) is not int or not 1 <= count <= MOST:
        raise ProtocolError(f"hint choices must be 1 to {MOST}: {count!r:.40}")
    if type(own) is not int or not 0 <= own < count:
        raise ProtocolError(f"hint own must be below {count}: {own!r:.40}")
    return [work.params if j == own else _other(work, j) for j in range(count)]


def _other(work: Work, j: int) -> Params:
    missing = [k for k in work.params if f"{j}/{k}" not in work.aux]
    if missing:
        raise ProtocolError(f"aux has no {j}/{missing[0]}, of model {j}")
    return {k: work.aux[f"{j}/{k}"] for k in work.params}


def losses_of(
    task: Task,
    work: Work,
    peer: PeerId,
    models: Sequence[Params],
    device: torch.device,
) -> list[float]:
    """Return the mean loss of each of ``models`` over the examples of ``task``.

    A loss that is no number counts as infinite.

    Raises:
        ProtocolError: a model does not fit the task.
    """
    with reproducible(), torch.no_grad():
        net = task.model().to(device).eval()
        seed = seed_for("choose", peer, work)
        batches = list(islice(task.batches(seed), task.epoch_steps))
        weights = torch.tensor([rows_of(b) for b in batches], dtype=torch.float64)
        losses = []
        for params in models:
            check_fit(net.state_dict(), replace(work, params=params), peer)
            load(net, params)
            each = [float(task.loss(net, on_device(b, device))) for b in batches]
            mean = float((torch.tensor(each, dtype=torch.float64) * weights).sum())
            losses.append(inf if isnan(mean) else mean / float(weights.sum()))
    return losses
