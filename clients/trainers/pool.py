"""Tasks that give their examples by number, and what a model says about those."""

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clients.trainers.autograd import check_fit
from clients.trainers.method import Method, device_of
from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.strategy import PeerId, Work
from fedcore.task import Task, load

Rows = npt.NDArray[np.int64]  # numbers of examples of one task, below ``examples``

AT_ONCE = 1000  # inputs in one forward pass


class Pool(Task, Protocol):
    """A task whose inputs can be had without their targets.

    ``clients.tasks.dataset.Shard`` is one.
    """

    def only(self, rows: Rows) -> Task:
        """Return the task of some of the examples, at least one."""
        ...

    def inputs(self, rows: Rows) -> Tensor:
        """Return the inputs of the examples ``rows``, (n, ...)."""
        ...

    def targets(self, rows: Rows) -> Tensor:
        """Return the targets of the examples ``rows``, (n, ...)."""
        ...

    def public(self, count: int) -> Tensor:
        """Return ``count`` inputs that every peer has, (n, ...)."""
        ...


def pool_of(task: Task, *needed: str) -> Pool:
    """Return ``task``, which must have the functions ``needed`` of a ``Pool``.

    Raises:
        ConfigError: it has not.
    """
    missing = [name for name in needed if not callable(getattr(task, name, None))]
    if missing:
        raise ConfigError(
            f"{type(task).__name__} has no {missing[0]}(), which this strategy needs: "
            "make the task of a clients.tasks.dataset.Dataset, or add the function"
        )
    return cast(Pool, task)


def every(task: Task) -> Rows:
    """Return the numbers of all examples of ``task``."""
    return np.arange(task.examples)


def scores(
    task: Task, params: Params, inputs: Tensor, peer: PeerId, method: Method
) -> Tensor:
    """Return what the model ``params`` says about ``inputs``, as in evaluation.

    Args:
        task: whose model it is.
        params: all its weights.
        inputs: (n, ...), n >= 1.
        peer: for the message of an error.
        method: says on which device.

    Returns:
        A score for each class, (n, classes), float32, on the CPU.

    Raises:
        ProtocolError: the weights do not fit the model.
        ConfigError: the model gives something else than a score for each class.
    """
    device = device_of(method.device)
    model = task.model().to(device).eval()
    check_fit(model.state_dict(), Work(0, params), peer)
    load(model, params)
    with torch.no_grad():
        parts = [model(x.to(device)).cpu() for x in torch.split(inputs, AT_ONCE)]
    whole = torch.cat(parts)
    if whole.ndim != 2 or whole.shape[1] < 2:
        raise ConfigError(
            f"the model answers with shape {tuple(whole.shape)} to {len(inputs)} "
            "inputs, but this strategy needs one score for each of several classes"
        )
    return whole.float()
