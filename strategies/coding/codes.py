"""Gradient codes: n workers send combinations; any n - s of them give the sum.

Sources:
    Tandon et al., "Gradient Coding: Avoiding Stragglers in Distributed Learning",
    ICML 2017: repetition (Algorithm 2's scheme) and the random cyclic code.
    https://arxiv.org/abs/1612.03301
    Raviv et al., "Gradient Coding from Cyclic MDS Codes and Expander Graphs", ICML
    2018: cyclic Reed-Solomon codes. https://arxiv.org/abs/1707.03858

Notation, paper -> here:
    n       workers, and chunks of data       ``workers``
    s       workers that may stay away        ``stragglers``
    B       row i: what worker i sends        ``Code.matrix``, (n, n)
    a       weights of the answers            ``weights``, with a B = (1, ..., 1)

Three kinds of B, with at most s + 1 chunks a worker each:
    ``grouped``  groups of s + 1 workers or a few more, each with its own chunks and a
        cyclic code. Where s + 1 divides n this is repetition: all of a group send the
        same, and one of each is enough. It decodes many patterns of far more than s,
        loses hardly a digit, and is the one to use.
    ``cyclic``   one group of all. Row i is g(x) shifted along the row, where g has s
        neighbouring n-th roots of 1 around -1 as its zeros.
    ``random``   row i is orthogonal to a random s x n matrix. Kept to compare with.
The last two lose more and more digits as s grows: there are patterns of s that only
tell nearly equal combinations apart.

Departures:
    Groups need not divide n: those of more than s + 1 take a cyclic code.

    A real g with zeros around -1 exists among the n-th roots of 1 only if n - s is
    odd. Otherwise we take the roots of x^n = -1, where shifts change sign as they go
    round, and scale the columns so that a codeword without zeros becomes (1, ..., 1);
    that codeword is half a wave of the cosine. The bound of Bose, Chaudhuri and
    Hocquenghem gives both forms the rank n - s on any n - s rows.

    Entries are uniform, not Gaussian, in ``random``. Matrices and weights are worked
    out by sums and products of float64 in a fixed order, and cosines are rounded to 44
    bits, so that all machines agree on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from math import cos, gcd, pi
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConfigError, QuorumError
from fedcore.seeds import words

Kind: TypeAlias = Literal["grouped", "cyclic", "random"]
Matrix: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = int  # a set of workers: bit i is worker i

COSINE_BITS = 44
GOLDEN = 0.618
EXACT = 1e-7  # worst entry of a B - 1 that still counts as decoded


@dataclass(frozen=True, eq=False)
class Code:
    """One code.

    Attributes:
        ends: where each group of workers ends, ascending; the last is ``workers``.
        matrix: B, (n, n); row i has at most s + 1 entries that are not 0.
    """

    kind: Kind
    workers: int
    stragglers: int
    ends: tuple[int, ...]
    matrix: Matrix

    def covers(self, present: Mask) -> bool:
        """Return whether the answers of ``present`` give the sum."""
        return not self.wanting(present)

    def wanting(self, present: Mask) -> Mask:
        """Return the fewest more workers with whom ``present`` gives the sum."""
        wanted = 0
        if present.bit_count() >= self.workers - self.stragglers:
            return wanted  # whoever they are
        for group, size in self._groups:
            short = size - self.stragglers - (present & group).bit_count()
            if short > 0:
                missing = bits(group & ~present)
                wanted |= sum(1 << i for i in islice(missing, short))
        return wanted

    @cached_property
    def _groups(self) -> tuple[tuple[Mask, int], ...]:
        """The workers of each group, and how many they are."""
        firsts = (0, *self.ends[:-1])
        both = list(zip(firsts, self.ends, strict=True))
        return tuple(((1 << end) - (1 << first), end - first) for first, end in both)

    def row(self, worker: int) -> tuple[tuple[int, float], ...]:
        """Return the chunks of ``worker`` and their coefficients."""
        row = self.matrix[worker]
        return tuple((int(c), float(row[c])) for c in np.flatnonzero(row))


@lru_cache(maxsize=64)
def code_of(workers: int, stragglers: int, kind: Kind = "grouped") -> Code:
    """Return the code for ``workers`` of whom ``stragglers`` may stay away.

    Raises:
        ConfigError: as many may stay away as there are.
    """
    if not 0 <= stragglers < workers:
        raise ConfigError(
            f"{stragglers} of {workers} workers may stay away: that must be 0 to "
            f"{workers - 1}, so that somebody answers"
        )
    groups = workers // (stragglers + 1) if kind == "grouped" else 1
    ends = tuple((g + 1) * workers // groups for g in range(groups))
    matrix, first = np.zeros((workers, workers)), 0
    for end in ends:
        make = _random if kind == "random" else _cyclic
        matrix[first:end, first:end] = make(end - first, stragglers)
        first = end
    matrix.setflags(write=False)
    return Code(kind, workers, stragglers, ends, matrix)


def weights(code: Code, present: Mask) -> Matrix:
    """Return a, (n,): 0 where nobody answered; a B is 1 everywhere.

    Raises:
        QuorumError: the answers do not give the sum.
    """
    return _weights(code.kind, code.workers, code.stragglers, present)


@lru_cache(maxsize=1024)
def _weights(kind: Kind, workers: int, stragglers: int, present: Mask) -> Matrix:
    code = code_of(workers, stragglers, kind)
    more = code.wanting(present).bit_count()
    if more:
        raise QuorumError(
            f"{present.bit_count()} of {workers} workers answered, and it takes {more} "
            "more to decode: wait longer, or raise strategy.stragglers"
        )
    found, first = np.zeros(workers), 0
    for end in code.ends:
        here = [i for i in bits(present) if first <= i < end]
        block = code.matrix[here, first:end]
        found[here] = _solved(block, end - first - stragglers)
        first = end
    error = float(np.abs(_product(found, code.matrix) - 1.0).max())
    if not error <= EXACT:
        raise QuorumError(
            f"a {kind} code of {workers} workers and {stragglers} stragglers loses too "
            f"many digits (error {error:.1e}): use strategy.code=grouped"
        )
    found.setflags(write=False)
    return found


def _solved(rows: Matrix, rank: int) -> Matrix:
    """Return a with a B = 1 for ``rows`` of B; refined once, for the last digits."""
    chosen, steps = _eliminated(rows.T, rank)
    found, target = np.zeros(len(rows)), np.ones(rows.shape[1])
    for _ in range(2):
        found[chosen] += _substituted(steps, target)
        target = 1.0 - _product(found, rows)
    return found


Steps: TypeAlias = tuple[Matrix, npt.NDArray[np.int64]]


def _eliminated(a: Matrix, rank: int) -> tuple[npt.NDArray[np.int64], Steps]:
    """Bring ``a`` (n, m) into triangular form by ``rank`` steps of full pivoting.

    Returns:
        The columns chosen, and what ``_substituted`` needs: both triangles in one
        matrix, and the order of the rows.
    """
    a = np.array(a)
    order, columns = np.arange(a.shape[0]), np.arange(a.shape[1])
    for k in range(rank):
        size = np.abs(a[k:, k:])
        i, j = divmod(int(size.argmax()), size.shape[1])
        for swapped, line, other in ((order, k, k + i), (columns, k, k + j)):
            swapped[[line, other]] = swapped[[other, line]]
        a[[k, k + i]] = a[[k + i, k]]
        a[:, [k, k + j]] = a[:, [k + j, k]]
        a[k + 1 :, k] /= a[k, k]
        a[k + 1 :, k + 1 :] -= a[k + 1 :, k, None] * a[k, k + 1 :]
    return columns[:rank], (a[:, :rank], order)


def _substituted(steps: Steps, target: Matrix) -> Matrix:
    """Return x with A x = ``target`` for the chosen columns of A, (rank,)."""
    a, order = steps
    x, rank = target[order], a.shape[1]
    for k in range(rank):
        x[k + 1 :] -= a[k + 1 :, k] * x[k]
    for k in reversed(range(rank)):
        x[k] /= a[k, k]
        x[:k] -= a[:k, k] * x[k]
    return x[:rank]


def _product(a: Matrix, matrix: Matrix) -> Matrix:
    """Return a B, summed row by row: the order is the same on every machine."""
    total = np.zeros(matrix.shape[1])
    for i in np.flatnonzero(a):
        total += a[i] * matrix[i]
    return total


def bits(mask: Mask) -> Iterator[int]:
    """Yield the workers in ``mask``, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _cosine(angle: float) -> float:
    scale = 2.0**COSINE_BITS
    return round(cos(angle) * scale) / scale


def _cyclic(n: int, s: int) -> Matrix:
    places = (_starts(n)[:, None] + np.arange(s + 1)) % n
    matrix = np.zeros((n, n))
    np.put_along_axis(matrix, places, _generator(n, s), axis=1)
    if (n - s) % 2 == 0:
        back = np.arange(n) < _starts(n)[:, None]  # these went round
        word = np.array([_cosine(pi * (2 * j - n + 1) / (2 * n)) for j in range(n)])
        matrix = np.where(back, -matrix, matrix) / word
    scaled: Matrix = matrix / np.abs(matrix).max(1, keepdims=True)
    return scaled


def _starts(n: int) -> npt.NDArray[np.int64]:
    """Return the column at which each row begins, every column once.

    Neighbours by number tend to be slow together, and rows that begin near each other
    are nearly dependent: so neighbours begin a golden share of the way round apart.
    """
    stride = next(k for k in range(int(n * GOLDEN), n + 1) if gcd(k, n) == 1)
    return np.arange(n) * stride % n


def _generator(n: int, s: int) -> Matrix:
    """Return the coefficients of g, (s + 1,).

    It is the product over its zeros, or x^n - 1 (x^n + 1) over the product of all
    others: long products round off, so the shorter one is taken.
    """
    if 2 * s <= n:
        return _product_of_zeros(n, s, 1.0)
    rest = _product_of_zeros(n, n - s, -1.0)[::-1]  # highest power first; begins with 1
    g = np.zeros(s + 1)
    g[0] = 1.0
    for k in range(1, s + 1):
        for i in range(1, min(k, n - s) + 1):
            g[k] -= rest[i] * g[k - i]
    return g


def _product_of_zeros(n: int, count: int, sign: float) -> Matrix:
    """Return the polynomial with ``count`` neighbouring zeros around ``-sign``."""
    odd = count % 2
    product = np.array([sign, 1.0]) if odd else np.ones(1)
    for k in range(count // 2):  # pairs at the same angle on both sides
        wide = np.zeros(len(product) + 2)
        wide[:-2] += product
        angle = 2 * pi * (k + (1.0 if odd else 0.5)) / n
        wide[1:-1] += sign * 2 * _cosine(angle) * product
        wide[2:] += product
        product = wide
    return product


def _random(n: int, s: int) -> Matrix:
    drawn = words(s * n, "gradient code", n, s).astype(np.float64) / 2.0**63 - 1.0
    h = drawn.reshape(s, n)
    for k in range(n - 1):
        h[:, n - 1] = -h[:, 0] if k == 0 else h[:, n - 1] - h[:, k]
    matrix = np.eye(n)
    for i in range(n):
        others = (i + 1 + np.arange(s)) % n
        chosen, steps = _eliminated(h[:, others], s)
        matrix[i, others[chosen]] = -_substituted(steps, h[:, i])
    return matrix
