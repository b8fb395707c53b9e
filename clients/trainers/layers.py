"""Layers that go forward and backward by hand, for one model or many at once.

Every tensor has a leading dimension m of models: activations are (m, b, ...),
weights (m, out, in). A batched matrix product of m = 1 costs what a plain one
costs, and gives a model the same bits whatever the others beside it; so a
cohort of one is the ordinary path, and there is no second one to keep equal.

``backward`` takes the gradient of the loss's sum with respect to the layer's output,
returns that of its input, and sends its weights' gradient to a ``Sink``.
Convolutions handle one model only.

A matrix product may round differently when its operands start at another place in
a cache line. So every model's part of every tensor starts at the beginning of one:
that is what ``room`` is for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clients.trainers import plan
from fedcore.params import Params

aten = torch.ops.aten
_masked = aten.threshold_backward.grad_input
_through_tanh = aten.tanh_backward.grad_input
ROWS_LAST = torch.channels_last  # twice as fast for the pooling of small images


LINE = 16  # float32 numbers in a cache line; torch puts every tensor at one's start


def room(m: int, *shape: int) -> Tensor:
    """Return an empty tensor (m, *shape) whose m parts each start a cache line."""
    size = torch.Size(shape).numel()
    stride = -(-size // LINE) * LINE
    return torch.empty(m, stride)[:, :size].view(m, *shape)


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Return a copy of ``parts`` as one tensor, (m, ...), each at a cache line."""
    if parts[0].numel() % LINE == 0 or len(parts) == 1:
        return torch.stack(list(parts))
    whole = room(len(parts), *parts[0].shape)
    for own, part in zip(whole, parts, strict=True):
        own.copy_(part)
    return whole


def settled(x: Tensor) -> bool:
    """Whether each of the parts of ``x`` starts a cache line."""
    return x.data_ptr() % (4 * LINE) == 0 and (len(x) == 1 or x.stride(0) % LINE == 0)


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a weight's gradient goes: ``to = keep * to + scale * gradient``.

    ``to`` may be the weight itself: then the step is taken on the way.
    """

    to: Tensor
    keep: float
    scale: float

    def add(self, grad: Tensor) -> None:
        """Take in a gradient of the shape of ``to``."""
        if self.keep == 0.0:
            torch.mul(grad, self.scale, out=self.to)
            return
        if self.keep != 1.0:
            self.to.mul_(self.keep)
        self.to.add_(grad, alpha=self.scale)

    def add_product(self, a: Tensor, b: Tensor) -> None:
        """Take in the gradient ``a @ b``, both (m, ., .), without making it."""
        self.to.baddbmm_(a, b, beta=self.keep, alpha=self.scale)


class Layer(Protocol):
    """One layer with the activations of the batch it is at."""

    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        """Return the gradient of the input; anything if the layer is the ``first``."""
        ...


class Dense:
    """x @ weight.T + bias.

    Args:
        layer: which tensors.
        w: weights by name.
        sinks: where gradients go, by name.
        turn: lay the output out as (m, o, b) in memory.
    """

    def __init__(
        self,
        layer: plan.Dense,
        w: Params,
        sinks: Mapping[str, Sink],
        turn: bool = False,
    ) -> None:
        self.turn = turn
        self.weight = w[layer.weight]  # (m, o, i)
        self.turned = self.weight.mT
        self.sink = sinks[layer.weight]
        self.bias = w[layer.bias].unsqueeze(1) if layer.bias else None  # (m, 1, o)
        self.bias_sink = _row(sinks[layer.bias]) if layer.bias else None
        self.ones: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        if self.ones is None:
            m, b, _ = x.shape
            self.ones = x.new_ones(1, 1, b).expand(m, 1, b)
            o = self.weight.shape[1]
            self.out = room(m, o, b).mT if self.turn else room(m, b, o)
            self.grad = room(*x.shape)
        if self.bias is None:
            return torch.bmm(x, self.turned, out=self.out)
        return torch.baddbmm(self.bias, x, self.turned, out=self.out)

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        if not first:  # before the weight may move
            torch.bmm(grad, self.weight, out=self.grad)
        self.sink.add_product(grad.mT, self.x)
        if self.bias_sink is not None and self.ones is not None:
            self.bias_sink.add_product(self.ones, grad)
        return self.grad


def _row(sink: Sink) -> Sink:
    return Sink(sink.to.unsqueeze(1), sink.keep, sink.scale)


class Relu:
    """max(0, x), in place."""

    def forward(self, x: Tensor) -> Tensor:
        self.out = x.relu_()
        return self.out

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        _masked(grad, self.out, 0, grad_input=grad)
        return grad


class Tanh:
    """Hyperbolic tangent."""

    def __init__(self) -> None:
        self.out: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.out = room(*x.shape) if self.out is None else self.out
        return torch.tanh(x, out=self.out)

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        _through_tanh(grad, self.out, grad_input=grad)
        return grad


class Flat:
    """(m, b, ...) to (m, b, all)."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x.flatten(2)

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        return grad.view(self.shape)


class Conv:
    """A convolution of one model's images, (1, b, c, h, w), channels last in memory."""

    def __init__(self, layer: plan.Conv, w: Params, sinks: Mapping[str, Sink]) -> None:
        self.weight = w[layer.weight][0]  # (o, c, h, w)
        self.bias = w[layer.bias][0] if layer.bias else None
        self.sink = _one(sinks[layer.weight])
        self.bias_sink = _one(sinks[layer.bias]) if layer.bias else None
        self.sizes = [list(p) for p in (layer.stride, layer.padding, layer.dilation)]
        self.groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        self.x = rows_last(x[0])
        out: Tensor = aten.convolution.default(
            self.x, self.weight, self.bias, *self.sizes, False, [0, 0], self.groups
        )
        return out.unsqueeze(0)

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        wanted = [not first, True, self.bias is not None]
        sizes = [None if self.bias is None else [len(self.bias)], *self.sizes]
        rest = [False, [0, 0], self.groups, wanted]
        g = rows_last(grad[0])
        to_x, to_weight, to_bias = aten.convolution_backward.default(
            g, self.x, self.weight, *sizes, *rest
        )
        self.sink.add(to_weight)
        if self.bias_sink is not None:
            self.bias_sink.add(to_bias)
        return grad if first else to_x.unsqueeze(0)


def _one(sink: Sink) -> Sink:
    return Sink(sink.to[0], sink.keep, sink.scale)


def rows_last(x: Tensor) -> Tensor:
    """Return ``x``, (b, c, h, w), laid out with channels last; no copy if c is 1."""
    _, c, h, w = x.shape
    if c == 1 and x.is_contiguous():  # say so in the strides, or torch guesses wrong
        return x.as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=ROWS_LAST)


class MaxPool:
    """Max pooling of one model's images."""

    def __init__(self, layer: plan.MaxPool) -> None:
        self.sizes = [
            list(p) for p in (layer.kernel, layer.stride, layer.padding, layer.dilation)
        ]
        self.ceil = layer.ceil

    def forward(self, x: Tensor) -> Tensor:
        self.x = rows_last(x[0])
        out, self.where = aten.max_pool2d_with_indices.default(
            self.x, *self.sizes, self.ceil
        )
        pooled: Tensor = out.unsqueeze(0)
        return pooled

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        g: Tensor = aten.max_pool2d_with_indices_backward.default(
            rows_last(grad[0]), self.x, *self.sizes, self.ceil, self.where
        )
        return g.unsqueeze(0)


class AvgPool:
    """Average pooling of one model's images."""

    def __init__(self, layer: plan.AvgPool) -> None:
        self.sizes = [list(p) for p in (layer.kernel, layer.stride, layer.padding)]
        self.modes = [layer.ceil, layer.count_padding, None]

    def forward(self, x: Tensor) -> Tensor:
        self.x = rows_last(x[0])
        out: Tensor = aten.avg_pool2d.default(self.x, *self.sizes, *self.modes)
        return out.unsqueeze(0)

    def backward(self, grad: Tensor, first: bool) -> Tensor:
        g: Tensor = aten.avg_pool2d_backward.default(
            rows_last(grad[0]), self.x, *self.sizes, *self.modes
        )
        return g.unsqueeze(0)


def build(layer: plan.Layer, w: Params, sinks: Mapping[str, Sink]) -> Layer:
    """Return ``layer`` ready to run on the weights ``w``, each (m, ...)."""
    if isinstance(layer, plan.Dense):
        return Dense(layer, w, sinks)
    if isinstance(layer, plan.Conv):
        return Conv(layer, w, sinks)
    if isinstance(layer, plan.MaxPool):
        return MaxPool(layer)
    if isinstance(layer, plan.AvgPool):
        return AvgPool(layer)
    return _PLAIN[type(layer)]()


_PLAIN: dict[type[plan.Layer], Callable[[], Layer]] = {
    plan.Flat: Flat,
    plan.Relu: Relu,
    plan.Tanh: Tanh,
}
