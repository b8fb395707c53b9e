"""Blocks of a model, and their changes folded to a few numbers with random signs.

With d_l weights in block l, K_l = its width, D_e = signs of epoch e (fedcore.pool):

    folded    f_l[j] = Σ_b D_e[b K_l + j] Δ_l[b K_l + j]           (K_l,), integers
    rebuilt   Δ'_l   = s_l · D_e ⊙ tile(f_l)                       (d_l,)

With d weights and K numbers in all, and the server's step times one of

    unbiased      s_l = 1                      E Δ' = Δ over the signs, at a relative
                                               error of sqrt(d_l / K_l - 1)
    projection    s_l = K_l / d_l              what of Δ lies in K_l dimensions: no
                                               vector there is closer to Δ
    length        s_l = K_l / d_l sqrt(d / K)  the projection, about as long as Δ

(where K_l divides d_l). Folding and rebuilding cost one pass over the weights each.

All numbers that peers must agree on are integers: widths are shared out in whole
numbers, and norms are taken of integers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, sqrt
from statistics import median
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fedcore.params import Params
from fedcore.pool import fold, key_of, unfold
from strategies.buffers import weights_of

Reconstruct: TypeAlias = Literal["length", "projection", "unbiased"]

RECONSTRUCTIONS = get_args(Reconstruct)
BLOCK_SHARE = 0.9  # of the median tensor: from here on a tensor is a block of its own
FEW_BITS = 20  # of a number in a sum of squares: exact for 2^22 numbers and more


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive weights that are folded together.

    Attributes:
        names: of its tensors, in order.
        start: flat offset of its first number among all weights.
        size: d_l, numbers in it, >= 1.
    """

    names: tuple[str, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was folded while signs and widths stayed the same.

    Attributes:
        widths: K_l of every block.
        sums: of all blocks, one after the other, int64 in units of 2^-32 (sum K_l,).
    """

    widths: tuple[int, ...]
    sums: Tensor


@dataclass(frozen=True, slots=True)
class Folding:
    """The rules of folding that stay the same for a whole run.

    Attributes:
        seed: names the signs, 0 .. 2^63 - 1.
        reconstruct: one of ``RECONSTRUCTIONS``; see the module.
        server_lr: step of the server, > 0.
    """

    seed: int
    reconstruct: Reconstruct
    server_lr: float = 1.0

    def folded(self, change: Params, epoch: int, widths: Sequence[int]) -> Tensor:
        """Return ``change`` of the weights folded with ``widths``, int64 (sum K_l,)."""
        key, blocks = key_of(self.seed, epoch), blocks_of(change)
        parts = [
            fold(key, _flat(change, block), width, start=block.start)
            for block, width in zip(blocks, widths, strict=True)
        ]
        return torch.cat(parts)

    def rebuilt(self, base: Params, epochs: Sequence[Epoch]) -> Params:
        """Return ``base`` moved by all that was folded in ``epochs``.

        Every epoch rounds a weight to float32 once, whatever the type of ``base``.
        """
        moved, blocks = dict(base), blocks_of(base)
        numbers = sum(block.size for block in blocks)
        for index, block in enumerate(blocks):
            whole = _flat(base, block)
            for number, epoch in enumerate(epochs):
                sums = torch.split(epoch.sums, list(epoch.widths))[index]
                share = len(sums) / block.size
                scale = self._scale(share, len(epoch.sums) / numbers)
                key = key_of(self.seed, number)
                whole = whole + unfold(key, sums, block.size, scale, start=block.start)
            moved.update(_cut(whole, base, block))
        return moved

    def _scale(self, share: float, mean_share: float) -> float:
        """Return s_l times the server's step, of a block folded to ``share`` of it."""
        scales = {
            "length": share / sqrt(mean_share),
            "projection": share,
            "unbiased": 1.0,
        }
        return self.server_lr * scales[self.reconstruct]


def blocks_of(tree: Params) -> tuple[Block, ...]:
    """Return the blocks of the weights of ``tree``, in order of name.

    A block ends where the next tensor would bring it above 0.9 times the median
    size: matrices stand alone, and small tensors between them go together.
    """
    sizes = {n: t.numel() for n, t in sorted(weights_of(tree).items()) if t.numel()}
    limit = BLOCK_SHARE * median(sizes.values()) if sizes else 0.0
    blocks: list[Block] = []
    start = 0
    for names in _groups(sizes, limit):
        size = sum(sizes[name] for name in names)
        blocks.append(Block(names, start, size))
        start += size
    return tuple(blocks)


def _groups(sizes: Mapping[str, int], limit: float) -> Iterator[tuple[str, ...]]:
    names: list[str] = []
    count = 0
    for name, size in sizes.items():
        if names and count + size > limit:
            yield tuple(names)
            names, count = [], 0
        names.append(name)
        count += size
    if names:
        yield tuple(names)


def first_widths(blocks: Sequence[Block], budget: int) -> tuple[int, ...]:
    """Return widths in proportion to size: nothing is known yet of the changes."""
    sizes = [block.size for block in blocks]
    return shared_out(budget, sizes, sizes)


def next_widths(blocks: Sequence[Block], epoch: Epoch, budget: int) -> tuple[int, ...]:
    """Return widths in proportion to how far the blocks moved in ``epoch``.

    Folding keeps the squared norm on average over the signs, so the norm of the
    sums stands for that of the change.
    """
    excess = int(epoch.sums.abs().max()).bit_length() - FEW_BITS
    short = epoch.sums >> max(0, excess)
    norms = [isqrt(int((s * s).sum())) for s in torch.split(short, list(epoch.widths))]
    return shared_out(budget, norms, [block.size for block in blocks])


def shared_out(
    total: int, claims: Sequence[int], most: Sequence[int]
) -> tuple[int, ...]:
    """Return whole numbers in proportion to ``claims`` that add up to ``total``.

    Each is in [1, most[i]]; a total that cannot be is brought into range. Shares are
    rounded up, the largest claim first, until nothing is left.
    """
    given = [1] * len(most)
    left = min(total, sum(most)) - len(most)
    while left > 0:
        free = [i for i, n in enumerate(given) if n < most[i]]
        claim = {i: claims[i] for i in free}
        if not any(claim.values()):
            claim = dict.fromkeys(free, 1)
        whole, rest = sum(claim.values()), left
        for i in sorted(free, key=lambda i: (-claim[i], i)):
            more = min(-(-rest * claim[i] // whole), most[i] - given[i], left)
            given[i] += more
            left -= more
    return tuple(given)


def _flat(tree: Params, block: Block) -> Tensor:
    """Return the numbers of ``block``, float32 (d_l,)."""
    return torch.cat([tree[name].reshape(-1).float() for name in block.names])


def _cut(whole: Tensor, like: Params, block: Block) -> Params:
    """Return the numbers of ``block`` in the shapes and types of ``like``."""
    parts = torch.split(whole, [like[name].numel() for name in block.names])
    named = zip(block.names, parts, strict=True)
    return {n: p.view(like[n].shape).to(like[n].dtype) for n, p in named}
