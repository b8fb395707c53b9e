"""The duty ``ranked``: train adapters of a lower rank than the model's.

The work brings adapters with some of their units (``strategies.merging.pairs``). Units
of zeros fill them up to the rank of the task's model, and stay zeros: the gradient of
each half is a multiple of the other. What comes back are the adapters as they are then,
without the zeros, and how far everything else moved.
"""

from dataclasses import replace

from clients.trainers.local import descend
from clients.trainers.method import Method
from clients.trainers.rules import Rule
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task
from strategies.merging.pairs import Pair, filled, pairs_of


def ranked(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Train the adapters in ``work``, whatever their rank; see the module.

    Raises:
        ProtocolError: a tensor has no place in the task's model, or half of an adapter
            is missing.
    """
    pairs = _pairs(work, peer)
    own = task.model().state_dict()
    _check_names(own, pairs, peer)
    hints = {k: v for k, v in work.hints.items() if k != "do"}
    whole = replace(work, params=filled(work.params, own, pairs), hints=hints)
    update = descend(task, whole, peer, method, rule)
    payload = dict(update.payload)
    for pair in pairs:
        for name in (pair.up, pair.down):
            first = work.params[name]
            moved = payload[name][tuple(map(slice, first.shape))]
            payload[name] = first + moved
    return replace(update, payload=payload)


def _pairs(work: Work, peer: PeerId) -> tuple[Pair, ...]:
    try:
        return pairs_of(work.params)
    except ConfigError as error:
        raise ProtocolError(f"{peer}: {error}") from error


def _check_names(own: Params, pairs: tuple[Pair, ...], peer: PeerId) -> None:
    for name in (name for pair in pairs for name in (pair.up, pair.down)):
        if name not in own:
            raise ProtocolError(f"{peer}: the task's model has no adapter {name!r}")
