"""Random numbers of the usual kinds, from named Philox words.

NumPy promises to keep the raw words of Philox as they are for ever, but not what
its ``Generator`` makes of them (NEP 19). So the few laws that partitioners need
are written out here. They use log, sqrt and cos, which may differ in the last
bit from one C library to another; nothing else does.

Source: Marsaglia & Tsang, "A Simple Method for Generating Gamma Variables", ACM
Transactions on Mathematical Software 26(3), 2000; normal numbers by Box & Muller.
"""

import numpy as np
import numpy.typing as npt

from fedcore.seeds import words

Floats = npt.NDArray[np.float64]


def uniforms(count: int, *path: str | int) -> Floats:
    """Return ``count`` numbers in (0, 1), 53 bits each, shape (count,)."""
    bits = words(count, *path) >> np.uint64(11)
    numbers: Floats = (bits.astype(np.float64) + 0.5) / 2.0**53
    return numbers


def normals(count: int, *path: str | int) -> Floats:
    """Return ``count`` standard normal numbers, shape (count,)."""
    radius, angle = uniforms(2 * count, *path).reshape(2, count)
    numbers: Floats = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return numbers


def log_gammas(shapes: Floats, *path: str | int) -> Floats:
    """Return the logarithm of one Gamma(shape, 1) number for each of ``shapes``, > 0.

    Logarithms, because a Gamma(0.01, 1) number is mostly below the smallest float.
    """
    flat = shapes.reshape(-1)
    d = np.where(flat < 1, flat + 1, flat) - 1 / 3
    logs, waiting, attempt = np.empty_like(d), np.arange(d.size), 0
    while waiting.size:
        v, accepted = _candidates(d[waiting], attempt, path)
        kept = waiting[accepted]
        logs[kept] = np.log(d[kept]) + np.log(v[accepted])
        waiting, attempt = waiting[~accepted], attempt + 1
    u = uniforms(d.size, *path, "boost")  # Gamma(a) = Gamma(a + 1) * U ** (1 / a)
    return np.where(flat < 1, logs + np.log(u) / flat, logs).reshape(shapes.shape)


def _candidates(
    d: Floats, attempt: int, path: tuple[str | int, ...]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return candidates v = (1 + x / sqrt(9 d)) ** 3, and which of them pass."""
    x = normals(d.size, *path, "normal", attempt)
    u = uniforms(d.size, *path, "accept", attempt)
    v = (1 + x / np.sqrt(9 * d)) ** 3
    safe = np.where(v > 0, v, 1.0)
    passed = np.log(u) < 0.5 * x * x + d * (1 - safe + np.log(safe))
    return safe, (v > 0) & passed


def dirichlets(shapes: Floats, *path: str | int) -> Floats:
    """Return one Dirichlet draw for each row of ``shapes``, (rows, k), all > 0.

    Rows of the result sum to 1; numbers may underflow to 0 when shapes are small.
    """
    logs = log_gammas(shapes, *path)
    gammas = np.exp(logs - logs.max(axis=-1, keepdims=True))
    shares: Floats = gammas / gammas.sum(axis=-1, keepdims=True)
    return shares
