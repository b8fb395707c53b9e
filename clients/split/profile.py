"""What each block of a model costs on this machine: the input of ``pareto``."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from clients.split.cut import blocks_of
from clients.split.messages import Message, decode, encode
from clients.trainers.method import reproducible


@dataclass(frozen=True, slots=True)
class BlockCost:
    """One block; seconds are medians, with one thread.

    Attributes:
        name: in the model.
        forward_s: a pass without a graph, as for inference.
        backward_s: the gradients of its weights and of its input.
    """

    name: str
    forward_s: float
    backward_s: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """What crosses at one cut.

    Attributes:
        size_bytes: of the whole message.
        encode_s: seconds to make the message.
        decode_s: seconds to read and check it.
    """

    size_bytes: int
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One batch through a model.

    Attributes:
        blocks: in order.
        crossings: before each block, and after the last: one more than blocks.
    """

    blocks: tuple[BlockCost, ...]
    crossings: tuple[Crossing, ...]


def profiled(model: nn.Module, x: Tensor, repeats: int = 15) -> Profile:
    """Return what a batch ``x`` costs, block by block.

    Args:
        model: an ``nn.Sequential``, or one with ``blocks()``; used as for evaluation.
        x: inputs, (rows, ...).
        repeats: of every measurement, >= 1; the first is left out.
    """
    costs, crossings = [], []
    with reproducible():
        for name, block in blocks_of(model.eval()).items():
            crossings.append(_crossing(x, repeats))
            forward_s, y = _forward_s(block, x, repeats)
            costs.append(BlockCost(name, forward_s, _backward_s(block, x, repeats)))
            x = y
        crossings.append(_crossing(x, repeats))
    return Profile(tuple(costs), tuple(crossings))


def _forward_s(block: nn.Module, x: Tensor, repeats: int) -> tuple[float, Tensor]:
    with torch.no_grad():
        copies = [x.clone() for _ in range(repeats + 2)]  # it may work in place
        y: Tensor = block(copies.pop())
        return timed_s(lambda: block(copies.pop()), repeats), y


def _backward_s(block: nn.Module, x: Tensor, repeats: int) -> float:
    leaf = x.clone().requires_grad_() if x.is_floating_point() else x
    y = block(leaf.clone())
    wanted: list[Tensor] = [p for p in block.parameters() if p.requires_grad]
    wanted += [leaf] if leaf.requires_grad else []
    if not wanted or not y.requires_grad:
        return 0.0
    dy = torch.ones_like(y)
    return timed_s(
        lambda: torch.autograd.grad(
            y, wanted, dy, retain_graph=True, allow_unused=True
        ),
        repeats,
    )


def _crossing(x: Tensor, repeats: int) -> Crossing:
    message = Message("infer", 0, {"activations": x}, {"at": 0})
    data = encode(message)

    def read() -> bool:
        return bool(decode(data).tensors["activations"].isfinite().all())

    encode_s = timed_s(lambda: encode(message), repeats)
    return Crossing(len(data), encode_s, timed_s(read, repeats))


def timed_s(action: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of ``repeats`` calls, after one that is not timed."""
    times = []
    for _ in range(repeats + 1):
        began_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - began_s)
    return median(times[1:])
