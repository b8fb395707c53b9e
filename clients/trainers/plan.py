"""Which models the fused path knows: the recipe of a stack of plain layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedcore.params import Params
from fedcore.task import Task

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Flat:
    """Flatten everything but the batch."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer; names of its tensors, ``bias`` empty if it has none."""

    weight: str
    bias: str


@dataclass(frozen=True, slots=True)
class Relu:
    """max(0, x)."""


@dataclass(frozen=True, slots=True)
class Tanh:
    """Hyperbolic tangent."""


@dataclass(frozen=True, slots=True)
class Conv:
    """A 2-d convolution with zero padding."""

    weight: str
    bias: str
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, slots=True)
class MaxPool:
    """2-d max pooling."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil: bool


@dataclass(frozen=True, slots=True)
class AvgPool:
    """2-d average pooling."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil: bool
    count_padding: bool


Layer = Flat | Dense | Relu | Tanh | Conv | MaxPool | AvgPool


Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A model as a list of layers.

    Attributes:
        layers: from input to output.
        last: the last of them, again.
        shapes: shape of every tensor of the model by name.
        many: whether several models can be trained at once with the same bits.
    """

    layers: tuple[Layer, ...]
    last: Dense
    shapes: Shapes
    many: bool

    @property
    def dims(self) -> int | None:
        """Dimensions of a batch of inputs; None if any will do."""
        first = self.layers[0]
        return None if isinstance(first, Flat) else 2 if isinstance(first, Dense) else 4

    @property
    def first(self) -> int:
        """Index of the first layer with weights; no gradient goes past it."""
        return next(i for i, k in enumerate(self.layers) if isinstance(k, Dense | Conv))

    @property
    def numbers(self) -> int:
        """Parameters of one model."""
        return sum(torch.Size(shape).numel() for _, shape in self.shapes)

    def fits(self, params: Params) -> bool:
        """Whether ``params`` is a whole model of this plan, in float32 on the CPU."""
        return len(params) == len(self.shapes) and all(
            name in params
            and params[name].shape == shape
            and params[name].dtype is torch.float32
            and params[name].device.type == "cpu"
            for name, shape in self.shapes
        )


_PLANS: WeakKeyDictionary[object, Plan | None] = WeakKeyDictionary()


def plan_for(task: Task) -> Plan | None:
    """Return the plan of the models of ``task``, or None if it needs autograd.

    A task asks for the fused path with an attribute ``loss_name`` equal to
    ``"cross_entropy"``: its batches are pairs (x, y) and its loss is torch's
    ``cross_entropy(model(x), y)``. If it also has an attribute ``dataset``, all
    tasks with the same one have the same model, which is looked at only once.
    """
    if getattr(task, "loss_name", None) != "cross_entropy":
        return None
    owner = getattr(task, "dataset", None)
    if owner is None:
        return plan_of(task.model())
    if owner not in _PLANS:
        _PLANS[owner] = plan_of(task.model())
    return _PLANS[owner]


def plan_of(model: nn.Module) -> Plan | None:
    """Return the plan of ``model``, or None if it is not a stack of known layers."""
    if type(model) is not nn.Sequential or _has_hooks(model):
        return None
    layers: list[Layer] = []
    for name, module in _leaves("", model):
        layer = None if _has_hooks(module) else _layer(name, module)
        if layer is None:
            return None
        layers.append(layer)
    tensors = dict(model.named_parameters(remove_duplicate=False))
    last = layers[-1] if layers else None
    if not (isinstance(last, Dense) and _in_order(layers) and _plain(model, tensors)):
        return None
    shapes = tuple((name, tuple(t.shape)) for name, t in tensors.items())
    return Plan(tuple(_pool_first(layers)), last, shapes, _many(layers, shapes))


def _many(layers: Sequence[Layer], shapes: Shapes) -> bool:
    """Whether every layer handles many models, each to the bits that it gets alone.

    Matrices of one row or column are left out: torch takes a single one for a vector,
    but not several.
    """
    known = all(isinstance(k, Flat | Dense | Relu | Tanh) for k in layers)
    return known and all(min(shape) > 1 for _, shape in shapes)


def _in_order(layers: Sequence[Layer]) -> bool:
    """Whether images come before vectors.

    A ReLU may not come first: it would overwrite the examples.
    """
    images = not isinstance(layers[0], Flat | Dense)
    for layer in layers:
        if isinstance(layer, Conv | MaxPool | AvgPool) and not images:
            return False
        if isinstance(layer, Dense) and images:
            return False
        images = images and not isinstance(layer, Flat)
    start = next(k for k in layers if not isinstance(k, Flat))
    return not isinstance(start, Relu | Tanh)


def _plain(model: nn.Module, tensors: Params) -> bool:
    """Whether all weights are there once, trained, and float32."""
    once = len({id(t) for t in tensors.values()}) == len(tensors)
    kinds = all(t.requires_grad and t.dtype is torch.float32 for t in tensors.values())
    return once and kinds and not list(model.buffers())


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _leaves(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if type(child) is nn.Sequential and not _has_hooks(child):
            yield from _leaves(f"{prefix}{name}.", child)
        else:
            yield f"{prefix}{name}.", child


def _layer(name: str, m: nn.Module) -> Layer | None:
    """Return the layer that module ``m`` is, its very type, in a form we handle."""
    make = _MAKERS.get(type(m))
    return None if make is None else make(name, m)


def _flat(name: str, m: nn.Flatten) -> Flat | None:
    return Flat() if (m.start_dim == 1 and m.end_dim == -1) else None


def _dense(name: str, m: nn.Linear) -> Dense:
    return Dense(f"{name}weight", _bias(name, m))


def _conv(name: str, m: nn.Conv2d) -> Conv | None:
    if m.padding_mode != "zeros" or isinstance(m.padding, str):
        return None
    return Conv(
        f"{name}weight",
        _bias(name, m),
        _pair(m.stride),
        _pair(m.padding),
        _pair(m.dilation),
        m.groups,
    )


def _max_pool(name: str, m: nn.MaxPool2d) -> MaxPool | None:
    if m.return_indices:
        return None
    return MaxPool(
        _pair(m.kernel_size),
        _pair(m.stride),
        _pair(m.padding),
        _pair(m.dilation),
        m.ceil_mode,
    )


def _avg_pool(name: str, m: nn.AvgPool2d) -> AvgPool | None:
    if m.divisor_override is not None:
        return None
    return AvgPool(
        _pair(m.kernel_size),
        _pair(m.stride),
        _pair(m.padding),
        m.ceil_mode,
        m.count_include_pad,
    )


_MAKERS: dict[type[nn.Module], Callable[[str, Any], Layer | None]] = {
    nn.AvgPool2d: _avg_pool,
    nn.Conv2d: _conv,
    nn.Flatten: _flat,
    nn.Linear: _dense,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: lambda name, m: Relu(),
    nn.Tanh: lambda name, m: Tanh(),
}


def _bias(name: str, m: nn.Linear | nn.Conv2d) -> str:
    return "" if m.bias is None else f"{name}bias"


def _pair(value: int | tuple[int, ...]) -> Pair:
    if isinstance(value, int):
        return value, value
    return value[0], value[1]


def _pool_first(layers: list[Layer]) -> list[Layer]:
    """Swap every ReLU with a max pooling after it: same values, less work."""
    out = list(layers)
    for i in range(len(out) - 1):
        if isinstance(out[i], Relu) and isinstance(out[i + 1], MaxPool):
            out[i], out[i + 1] = out[i + 1], out[i]
    return out
