"""The pool written out from its definition: slow, obvious, what the rest must equal.

One direction at a time, whole vectors, no transforms. The fast forms (``expand``,
``project``, ``fold``, ``walk``) are tested for equality with these, bit for bit.
"""

import torch
from torch import Tensor

from fedcore import ring
from fedcore.params import Params
from fedcore.pool.pool import Pool
from fedcore.pool.stream import PATCH, ROW, Keystream, key_of
from fedcore.pool.sums import NORMALS
from fedcore.seeds import seed_of


def signs(key: bytes, start: int, count: int, lane: int = 0) -> Tensor:
    """Return signs ``start .. start + count``, float32 (count,), a set bit is -1."""
    place = torch.arange(start, start + count)
    patch, row, column = place // PATCH, place % PATCH // ROW, place % ROW
    words = Keystream(key, lane).words(0, ((start + count) // PATCH + 1) * ROW)
    bits = (words[patch * ROW + column].long() >> row) & 1
    return 1 - 2 * bits.float()


def direction(
    pool: Pool, k: int, numel: int, *, epoch: int = 0, start: int = 0
) -> Tensor:
    """Return places ``start .. start + numel`` of z_k, float32 (numel,)."""
    if not numel:
        return torch.empty(0)
    if pool.kind == "gaussian":
        return _normals(pool, k, numel, epoch, start)
    key = key_of(pool.seed, epoch)
    if pool.kind == "signs":
        return signs(key, start, numel, lane=k)
    place = torch.arange(start, start + numel)
    block, j = place // pool.size, place % pool.size
    block = block % (PATCH // pool.size)  # the ties repeat every patch
    count = int(block.max()) + 1
    if pool.tie == "shift":
        j = j ^ shifts(pool, epoch, count)[block]
    signed = signs(key, start, numel) * row(pool, k)[j]
    return (
        signed * flips(pool, epoch, k, count)[block] if pool.tie == "flip" else signed
    )


def row(pool: Pool, k: int) -> Tensor:
    """Return row k of Sylvester's Hadamard matrix, float32 (K,)."""
    odd = [(k & j).bit_count() % 2 for j in range(pool.size)]
    return 1 - 2 * torch.tensor(odd, dtype=torch.float32)


def shifts(pool: Pool, epoch: int, count: int) -> Tensor:
    """Return r_b of the first blocks: multiples of 8 below K (so 0 to K = 8)."""
    words = Keystream(key_of(pool.seed, epoch, "shift")).words(0, count)
    return words.long() % max(1, pool.size // 8) * 8 % pool.size


def flips(pool: Pool, epoch: int, k: int, count: int) -> Tensor:
    """Return p_b[k] of the first blocks, +1 or -1, float32."""
    key = key_of(pool.seed, epoch, "flip")
    return signs(key, 0, count * pool.size).view(-1, pool.size)[:, k]


def _normals(pool: Pool, k: int, numel: int, epoch: int, start: int) -> Tensor:
    first, skip = divmod(start, NORMALS)
    blocks = range(first, -(-(start + numel) // NORMALS))
    parts = [torch.empty(0)]
    for block in blocks:
        seed = seed_of("gaussian pool", pool.seed, epoch, k, block)
        source = torch.Generator().manual_seed(seed)
        parts.append(torch.randn(NORMALS, generator=source))
    return torch.cat(parts)[skip : skip + numel]


def expand(pool: Pool, coefficients: Tensor, scale: float, base: Params) -> Params:
    """Return ``base + scale * sum_k A_k 2^-32 z_k``, epoch by epoch."""
    made = {
        n: t.to(torch.promote_types(t.dtype, torch.float32)) for n, t in base.items()
    }
    numel = sum(t.numel() for t in base.values())
    for epoch, line in enumerate(coefficients):
        step = like(change(pool, line, scale, numel, epoch=epoch), base)
        made = {name: t + step[name] for name, t in made.items()}
    return {name: t.to(base[name].dtype) for name, t in made.items()}


def change(
    pool: Pool, line: Tensor, scale: float, numel: int, *, epoch: int = 0
) -> Tensor:
    """Return ``scale * sum_k A_k 2^-32 z_k`` of one epoch, float32 (numel,)."""
    total = summed(pool, line, numel, epoch)
    return (total.double() * (scale / ring.ONE)).float()


def summed(pool: Pool, line: Tensor, numel: int, epoch: int) -> Tensor:
    """Return ``sum_k A_k z_k``, exact: int64 (numel,); float64 of Gaussian kind."""
    exact = torch.float64 if pool.kind == "gaussian" else torch.int64
    total = torch.zeros(numel, dtype=exact)
    for k in range(pool.size):
        if not line[k]:
            continue
        z = direction(pool, k, numel, epoch=epoch)
        total += z.to(exact) * line[k].to(exact)
    return total


def moved(
    pool: Pool, line: Tensor, scale: float, base: Tensor, probe: tuple[int, float]
) -> Tensor:
    """Return what a walk at ``probe`` = (k, eps) writes, from epoch 0, float32 (d,)."""
    k, eps = probe
    total = summed(pool, line, base.numel(), 0).double() * (scale / ring.ONE)
    z = direction(pool, k, base.numel())
    return base + (total + eps * z.double()).float()


def project(pool: Pool, change: Params, *, epoch: int = 0) -> Tensor:
    """Return ``<z_k, change>`` in units of 2^-32, int64 (K,)."""
    whole = flat(change).double()
    lines = []
    for k in range(pool.size):
        z = direction(pool, k, whole.numel(), epoch=epoch)
        if pool.kind == "gaussian":
            lines.append((z.double() @ whole * ring.ONE).round().long())
        else:
            lines.append((z.long() * (whole * ring.ONE).round().long()).sum())
    return torch.stack(lines)


def fold(key: bytes, change: Tensor, width: int, *, start: int = 0) -> Tensor:
    """Return ``f[j] = sum_b D[start + b w + j] change[b w + j]``, int64 (width,)."""
    whole = (change.reshape(-1).double() * ring.ONE).round().long()
    signed = whole * signs(key, start, whole.numel()).long()
    folded = torch.zeros(width, dtype=torch.int64)
    return folded.index_add_(0, torch.arange(whole.numel()) % width, signed)


def unfold(
    key: bytes, folded: Tensor, numel: int, scale: float, *, start: int = 0
) -> Tensor:
    """Return ``D tile(scale 2^-32 folded)``, float32 (numel,)."""
    line = (folded.double() * (scale / ring.ONE)).float()
    return signs(key, start, numel) * line[torch.arange(numel) % len(folded)]


def flat(tree: Params) -> Tensor:
    """Return all numbers of ``tree``, names sorted, row by row, as float32."""
    parts = [tree[name].reshape(-1) for name in sorted(tree)]
    return torch.cat([torch.empty(0), *(p.to(torch.float32) for p in parts)])


def like(whole: Tensor, tree: Params) -> Params:
    """Return the numbers of ``whole`` in the names and shapes of ``tree``, float32."""
    names = sorted(tree)
    parts = torch.split(whole, [tree[name].numel() for name in names])
    made = dict(zip(names, parts, strict=True))
    return {name: made[name].view(t.shape) for name, t in tree.items()}
