"""Named tensors, and the little linear algebra that strategies need.

Everything that crosses a process border here is a ``Params``: a model, a model
difference, a list of shared-seed scalars. So one codec, one Flower adapter and
one mesh protocol carry them all.

Functions return new trees and never write into their arguments. Results keep
the dtype of the first tree, whatever the second one holds.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

Params = Mapping[str, Tensor]


def add(a: Params, b: Params, scale: float = 1.0) -> Params:
    """Return ``a + scale * b``, name by name.

    The product is rounded before the sum. Torch's fused form rounds once where the
    processor can and twice where it cannot, and so gives other bits elsewhere.
    """
    return {
        name: t + (b[name] if scale == 1 else b[name] * scale).to(t.dtype)
        for name, t in a.items()
    }


def sub(a: Params, b: Params) -> Params:
    """Return ``a - b``, name by name."""
    return {name: t - b[name].to(t.dtype) for name, t in a.items()}


def scaled(a: Params, factor: float) -> Params:
    """Return ``factor * a``, name by name."""
    return {name: t * factor for name, t in a.items()}


def zeros_like(tree: Params) -> Params:
    """Return a tree of zeros with the names, shapes and dtypes of ``tree``."""
    return {name: torch.zeros_like(t) for name, t in tree.items()}


def norm(tree: Params) -> float:
    """Return the L2 norm of all numbers in ``tree``, taken as one vector."""
    return float(sum(float(t.double().square().sum()) for t in tree.values()) ** 0.5)


def size_bytes(tree: Params) -> int:
    """Return the bytes of all tensors of ``tree``, without names or headers."""
    return sum(t.numel() * t.element_size() for t in tree.values())


def digest(tree: Params) -> str:
    """Return the SHA-256 of names, dtypes, shapes and little-endian bytes, in hex.

    Two trees have the same digest exactly when they are equal bit for bit; the
    order in which names were inserted does not matter.
    """
    whole = hashlib.sha256()
    for name in sorted(tree):
        t = tree[name]
        head = f"{name}\x1f{t.dtype}\x1f{tuple(t.shape)}\x1e"
        whole.update(head.encode())
        whole.update(bytes_of(t))
    return whole.hexdigest()


def bytes_of(t: Tensor) -> memoryview:
    """Return the numbers of ``t`` in row order, little-endian; not copied if whole."""
    whole = t.detach().cpu().contiguous()
    line = whole.as_strided((t.numel(),), (1,))  # one number may have any stride
    return line.view(torch.uint8).numpy().data
