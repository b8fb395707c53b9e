"""Stacked adapters: the exact sum of products as one product, and back to a rank.

Σ p_i B_i A_i is one product of stacked halves: [p_1 B_1, p_2 B_2, ...] side by side and
A_1, A_2, ... below each other. No matrix as large as the weight is made, and ranks may
differ.

Source:
    Stacking: Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with
    Heterogeneous Low-Rank Adaptations", NeurIPS 2024. https://arxiv.org/abs/2409.05976
    Back to a rank by singular values: Bai et al., "Federated Fine-tuning of Large
    Language Models under Heterogeneous Tasks and Client Resources" (FlexLoRA), NeurIPS
    2024. https://arxiv.org/abs/2402.11505

All numbers are float64, and one thread computes them. Singular vectors come from
LAPACK, and their signs are set here: the largest number of each row of A is positive.
Their last bits may differ between builds of LAPACK, which rounding to float32 hides but
for one number in a hundred thousand; where two singular values are equal, vectors may.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1e-10  # singular values below this share of the largest are rounding
APART = 1e-6  # share of a row that others leave over, if it is a direction of its own

Halves = tuple[Tensor, Tensor]  # B (out, r) and A (r, in)


@dataclass(frozen=True, slots=True)
class Stack:
    """Units of many adapters of one weight, and how much each counts.

    Attributes:
        ups: columns, (out, n).
        downs: rows, (n, in).
        mass: what a unit counts, (n,).
    """

    ups: Tensor
    downs: Tensor
    mass: Tensor

    def product(self) -> Tensor:
        """Return the sum of all units, each times its mass, (out, in)."""
        return (self.ups * self.mass) @ self.downs


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block: sums cut among several round otherwise.

    The number belongs to the process, so nothing else should set it meanwhile.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def stacked(adapters: Sequence[Halves], counts: Sequence[int]) -> Stack:
    """Return the mean of ``adapters`` weighted by ``counts``, as a stack."""
    total = sum(counts)
    mass = [
        torch.full((len(down),), n / total, dtype=torch.float64)
        for (_, down), n in zip(adapters, counts, strict=True)
    ]
    ups, downs = zip(*adapters, strict=True)
    return Stack(torch.cat(ups, 1), torch.cat(downs), torch.cat(mass))


def moved_stack(
    now: Halves, adapters: Sequence[Halves], counts: Sequence[int], server_lr: float
) -> Stack:
    """Return ``now`` moved by the mean change that ``adapters`` made to it.

    An adapter of r units was given the first r of ``now``. The others, which its peer
    did not see, it leaves as they are: counted as gone, they would fade away round by
    round. With ``server_lr`` = 1 and all units given, this is the plain mean.
    """
    up, down = now
    ranks = torch.tensor([len(a) for _, a in adapters])
    given = ranks[None, :] > torch.arange(len(down))[:, None]  # (units, adapters)
    weight = (given * torch.tensor(counts)).sum(1)
    left = 1 - server_lr * (weight.double() / sum(counts))
    mean = stacked(adapters, counts)
    still = left != 0
    return Stack(
        torch.cat([up[:, still], mean.ups], 1),
        torch.cat([down[still], mean.downs]),
        torch.cat([left[still], server_lr * mean.mass]),
    )


def singular(stack: Stack) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (out, k), S (k,) and V (k, in) of the product, largest first.

    Of n units, the product is never made if n is below both its sides.
    """
    ups, downs = stack.ups * stack.mass, stack.downs
    if ups.shape[1] >= min(len(ups), downs.shape[1]):
        u, s, v = torch.linalg.svd(ups @ downs, full_matrices=False)
    else:
        left, over = torch.linalg.qr(ups)
        right, under = torch.linalg.qr(downs.T)
        u, s, v = torch.linalg.svd(over @ under.T, full_matrices=False)
        u, v = left @ u, v @ right.T
    return _signed(u, s, v)


def refactored(stack: Stack, now: Halves) -> Halves:
    """Return the adapter closest to ``stack`` with the form of ``now``.

    Its rows of A are orthogonal, and A is as large as it was, so that a step size means
    what it meant. Units that the product leaves over have zeros in B, as in a new
    adapter, and directions of the old A: they can still learn.
    """
    out, rank = now[0].shape
    u, s, v = singular(stack)
    real = int((s > SMALL * s[0]).sum()) if s.numel() and s[0] > 0 else 0
    k = min(rank, real)
    size = row_norm(now[1])
    up = torch.zeros(out, rank, dtype=torch.float64)
    up[:, :k] = u[:, :k] * s[:k] / size
    return up, completed(v[:k], now[1]) * size


def row_norm(down: Tensor) -> float:
    """Return the root mean square norm of the rows of A; 1 if all are 0."""
    return float(down.square().sum(1).mean().sqrt()) or 1.0


def completed(rows: Tensor, old: Tensor) -> Tensor:
    """Return orthonormal ``rows`` (k, in) made as many as ``old`` (r, in) has.

    More come from ``old`` in order, less what the rows before leave of them, and then
    from the axes; rows of zeros if there are no more directions.
    """
    rank, width = old.shape
    found = torch.zeros(rank, width, dtype=torch.float64)
    found[: len(rows)] = rows
    count = len(rows)
    for candidate in torch.cat([old, torch.eye(min(rank, width), width).double()]):
        if count == rank:
            break
        rest = candidate.clone()
        for _ in range(2):  # once is not exact in floating point
            rest -= found[:count].T @ (found[:count] @ rest)
        if rest.norm() > APART * candidate.norm():
            found[count] = rest / rest.norm()
            count += 1
    return found


def _signed(u: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    peaks = v.gather(1, v.abs().argmax(1, keepdim=True))  # (k, 1)
    signs = torch.where(peaks < 0, -1.0, 1.0).to(v)
    return u * signs.T, s, v * signs
