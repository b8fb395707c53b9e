"""The exact mean of low-rank updates of different ranks.

A low-rank update of a weight (out, in) is a pair of factors, B (out, r) and A (r, in),
and changes the weight by B A. Updates of one round may have different ranks, and even
where they agree the mean of the products is not the product of the means:
``mean(B_i A_i) != mean(B_i) mean(A_i)``. So the products are multiplied out, one
update at a time, and summed as whole differences on the ring (``fedcore.ring``).

Source:
    The trouble with averaging factors, and sums in the space of ΔW: Bai et al.,
    "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
    Client Resources" (FlexLoRA), NeurIPS 2024. https://arxiv.org/abs/2402.11505

Exactness: a product of two float32 is exact in float64, so B A is rounded only where
its r terms are added, in order of rank: the same bits on every machine. The mean over
updates is off by at most 2^-33, and the same in any order.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.partial import summed
from fedcore.ring import LIMIT
from fedcore.strategy import Update

UP, DOWN = ":B", ":A"  # after the name of the weight that the factors belong to
LARGEST = 1e3  # size of a number in a product; the gate has seen only the factors


def is_factored(weight: Tensor) -> bool:
    """Return whether ``weight`` travels as factors: it is a matrix."""
    return weight.ndim == 2


def factored(params: Params, rank: int) -> Params:
    """Return a tree shaped as a low-rank update of ``params``: zeros.

    Matrices (out, in) become B (out, r) and A (r, in), r = min(rank, out, in), both
    float32; the rest keeps its names, shapes and types.
    """
    tree: dict[str, Tensor] = {}
    for name, t in params.items():
        if is_factored(t):
            out, inputs = t.shape
            r = min(rank, out, inputs)
            tree[name + UP] = torch.zeros(out, r)
            tree[name + DOWN] = torch.zeros(r, inputs)
        else:
            tree[name] = torch.zeros_like(t)
    return tree


def product(up: Tensor, down: Tensor) -> Tensor:
    """Return B A, float64 (out, in), added up rank by rank."""
    total = torch.zeros(up.shape[0], down.shape[1], dtype=torch.float64)
    for column, row in zip(up.double().T, down.double(), strict=True):
        total += column[:, None] * row
    return total


def multiplied(update: Update) -> Update:
    """Return ``update`` with each pair of factors as their product, float64."""
    tree = {
        name.removesuffix(UP): product(t, update.payload[_mate(name)])
        if name.endswith(UP)
        else t
        for name, t in update.payload.items()
        if not name.endswith(DOWN)
    }
    return replace(update, payload=tree)


def mean_product(updates: Sequence[Update]) -> Params:
    """Return the mean difference weighted by examples, float64.

    Updates with a product above ``LARGEST`` are left out; {} if all are. At any time
    one update is multiplied out, not all of them.
    """
    whole = summed(u for u in map(multiplied, updates) if _excess(u) is None)
    return whole.mean(torch.float64) if whole.examples else {}


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Return the matrix of ``rank`` or less that is closest to ``matrix`` (out, in)."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    near: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return near


def _mate(name: str) -> str:
    return name.removesuffix(UP) + DOWN


def too_large(update: Update) -> str | None:
    """Return why the product of the factors in ``update`` is refused, if it is."""
    return _excess(multiplied(update))


def _excess(update: Update) -> str | None:
    """Return why neither ring nor gate would take ``update``, multiplied out."""
    for name, t in update.payload.items():
        top = float(t.abs().max()) if t.numel() else 0.0
        if top > LARGEST:
            return f"the factors of {name} make {top:.4g}, above {LARGEST:g}"
        if top * update.examples >= LIMIT:
            return f"{name} holds {top:.4g} times its weight {update.examples}"
    return None
