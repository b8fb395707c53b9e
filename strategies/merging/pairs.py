"""Adapters in a tree of tensors: which two belong together, and with how many units.

An adapter of a weight is a pair of halves, B (out, r) and A (r, in), and changes the
weight by B A. Column k of B and row k of A are its *unit* k. Libraries call the halves
``lora_B`` and ``lora_A`` somewhere in a dotted name, for embeddings
``lora_embedding_B`` and ``lora_embedding_A``. Halves for a convolution have more
dimensions, and are taken as matrices.

Cutting an adapter leaves its first units. Filling one up adds units of zeros. These
change nothing, and training leaves them at zero: the gradient of each half is a
multiple of the other half.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params

HALVES = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """The names of the two halves of one adapter.

    Attributes:
        up: of B (out, r).
        down: of A (r, in).
    """

    up: str
    down: str


def pairs_of(params: Params) -> tuple[Pair, ...]:
    """Return all adapters in ``params``, sorted by name.

    Raises:
        ConfigError: a half has no other half, or they differ in their number of units.
    """
    pairs = sorted(Pair(_mate(n, HALVES), n) for n in params if _mate(n, HALVES))
    for pair in pairs:
        _check(params, pair)
    known = {pair.up for pair in pairs}
    ups = {up: down for down, up in HALVES.items()}
    for name in params:
        if (mate := _mate(name, ups)) and name not in known:
            raise ConfigError(
                f"adapter {name!r} has no other half: {mate!r} is missing"
            )
    return tuple(pairs)


def rank_of(params: Params, pair: Pair) -> int:
    """Return how many units the adapter ``pair`` has."""
    return len(params[pair.down])


def up_of(params: Params, pair: Pair) -> Tensor:
    """Return B of ``pair`` as a matrix, float64 (out, r)."""
    return params[pair.up].flatten(1).double()


def down_of(params: Params, pair: Pair) -> Tensor:
    """Return A of ``pair`` as a matrix, float64 (r, in)."""
    return params[pair.down].flatten(1).double()


def cut(params: Params, pairs: Iterable[Pair], limit: int, halvings: int = 0) -> Params:
    """Return ``params`` whose adapters have only their first units; itself if all.

    Args:
        params: the whole tree.
        pairs: its adapters.
        limit: most units, >= 1; 0 for as many as there are.
        halvings: how often that number is halved; one unit is always left.
    """
    less: dict[str, Tensor] = {}
    for pair in pairs:
        own = rank_of(params, pair)
        units = max(1, min(own, limit or own) >> halvings)
        if units < own:
            less[pair.up] = params[pair.up][:, :units].contiguous()
            less[pair.down] = params[pair.down][:units].contiguous()
    return {**params, **less} if less else params


def filled(params: Params, like: Params, pairs: Iterable[Pair]) -> Params:
    """Return ``params`` whose adapters have as many units as in ``like``.

    A half that does not fit, but for its units, stays as it is.
    """
    tree = dict(params)
    for pair in pairs:
        tree[pair.up] = _grown(params[pair.up], like[pair.up], 1)
        tree[pair.down] = _grown(params[pair.down], like[pair.down], 0)
    return tree


def shaped(params: Params, pair: Pair, halves: Sequence[Tensor]) -> Params:
    """Return the matrices B and A under the names, shapes and dtypes in ``params``."""
    names = (pair.up, pair.down)
    return {
        n: t.to(params[n].dtype).view(params[n].shape)
        for n, t in zip(names, halves, strict=True)
    }


def _grown(t: Tensor, like: Tensor, axis: int) -> Tensor:
    missing = like.shape[axis] - t.shape[axis] if t.ndim == like.ndim else 0
    rest = [n for i, n in enumerate(t.shape) if i != axis]
    fits = rest == [n for i, n in enumerate(like.shape) if i != axis]
    if missing <= 0 or not fits:
        return t
    shape = [missing if i == axis else n for i, n in enumerate(t.shape)]
    return torch.cat([t, t.new_zeros(shape)], axis)


def _mate(name: str, halves: dict[str, str]) -> str:
    """Return the name of the other half of ``name``; "" if it is no half."""
    parts = name.split(".")
    mates = [halves.get(part, part) for part in parts]
    return "" if mates == parts else ".".join(mates)


def _check(params: Params, pair: Pair) -> None:
    if pair.up not in params:
        raise _lonely(pair.down, pair.up)
    up, down = params[pair.up], params[pair.down]
    if min(up.ndim, down.ndim) < 2 or up.flatten(1).shape[1] != len(down):
        raise ConfigError(
            f"adapter {pair.up!r} {tuple(up.shape)} and {pair.down!r} "
            f"{tuple(down.shape)} do not go together: columns of the one must be as "
            "many as rows of the other"
        )


def _lonely(name: str, mate: str) -> ConfigError:
    return ConfigError(f"adapter {name!r} has no other half: {mate!r} is missing")
