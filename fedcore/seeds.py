"""Randomness that every machine reproduces bit for bit.

Seeds are derived by name, never drawn from global state; noise comes from raw
Philox words, whose stream NumPy keeps fixed across versions and platforms
(NEP 19), unlike ``torch.randn``, which differs between CPU and CUDA.
"""

import hashlib
import threading

import numpy as np
import torch

from fedcore.params import Params


def seed_of(*path: str | int) -> int:
    """Return the 64-bit seed named by ``path``, such as ``("batches", peer, 3)``."""
    name = "\x1f".join(f"{type(part).__name__}:{part}" for part in path)
    return int.from_bytes(
        hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"
    )


class _Philox(threading.local):
    """One generator a thread, set to each stream in turn: making one costs more."""

    def __init__(self) -> None:
        self.generator = np.random.Philox(key=0)
        self.begin = self.generator.state

    def words(self, seed: int, count: int) -> "np.ndarray":
        self.begin["state"]["key"][0] = seed
        self.generator.state = self.begin
        return self.generator.random_raw(count)


_philox = _Philox()


def words(count: int, *path: str | int) -> "np.ndarray":
    """Return ``count`` raw 64-bit words of the stream named by ``path``, uint64."""
    return _philox.words(seed_of(*path), count)


def uniform(*path: str | int) -> float:
    """Return the number in (0, 1) named by ``path``; 53 random bits."""
    return (int(words(1, *path)[0] >> np.uint64(11)) + 0.5) / 2**53


def permutation(count: int, *path: str | int) -> "np.ndarray":
    """Return the permutation of ``range(count)`` named by ``path``, int64."""
    return np.argsort(words(count, *path), kind="stable")


def choose(size: int, count: int, *path: str | int) -> list[int]:
    """Return ``count`` distinct indices below ``size``, ascending, named by ``path``.

    Floyd's algorithm: time and memory grow with ``count``, never with ``size``, so
    that a round costs the same among ten peers and among a million.
    """
    drawn: set[int] = set()
    for top, word in zip(range(size - count, size), words(count, *path), strict=True):
        pick = int(word) % (top + 1)
        drawn.add(top if pick in drawn else pick)
    return sorted(drawn)


def signs(seed: int, like: Params) -> Params:
    """Return a tree of +1 and -1 shaped as ``like``: mean 0, variance 1."""
    count = sum(t.numel() for t in like.values())
    words = _philox.words(seed, -(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:count]
    flat = torch.from_numpy(bits).to(torch.float32).mul_(2).sub_(1)
    parts = torch.split(flat, [t.numel() for t in like.values()])
    return {
        name: part.view(t.shape).to(t)
        for (name, t), part in zip(like.items(), parts, strict=True)
    }
