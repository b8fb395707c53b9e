"""What is learned: a model, private data and a loss, for one peer."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work

Batch = Any  # whatever ``batches`` yields and ``loss`` accepts; opaque to the platform


class Task(Protocol):
    """One peer's share of a learning problem."""

    @property
    def examples(self) -> int:
        """Training examples held here, >= 1."""
        ...

    @property
    def epoch_steps(self) -> int:
        """Batches in one pass over the training examples, >= 1."""
        ...

    def model(self) -> nn.Module:
        """Return a new model; its initial weights do not matter."""
        ...

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield training batches without end, in an order fixed by ``seed``."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over ``batch``, shape ()."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return figures on held-out examples, ``loss`` among them.

        ``examples`` is how many were held out; it is the weight when figures of
        several peers are averaged.
        """
        ...


Trainer = Callable[[Task, Work, PeerId], Update]


def steps_of(task: Task, work: Work) -> int:
    """Return the local batches that ``work`` asks of ``task``, >= 1."""
    return work.steps or work.epochs * task.epoch_steps


def seed_for(name: str, peer: PeerId, work: Work, *more: int) -> int:
    """Return the seed of what ``peer`` draws under ``name`` for ``work``.

    The hint ``turn`` counts the answers that the peer has given to this version
    already: a quick peer that works on one model twice draws other batches then, or
    its second answer would be a copy of the first, and count twice.

    Raises:
        ProtocolError: the hint is no count.
    """
    turn = work.hints.get("turn", 0)
    if type(turn) is not int or turn < 0:
        raise ProtocolError(f"hint turn must be a count: {turn!r:.40}")
    again = ("turn", turn) if turn else ()
    return seed_of(name, peer, work.version, *again, *more)


def params_of(model: nn.Module) -> Params:
    """Return detached copies of the parameters and floating-point buffers."""
    return {
        name: t.detach().clone()
        for name, t in model.state_dict().items()
        if t.is_floating_point()
    }


def load(model: nn.Module, params: Params) -> nn.Module:
    """Write ``params`` into ``model`` in place, and return it."""
    own = model.state_dict()
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(value)
    return model
