"""Bits of pools that peers on other machines must also get, in ``pool.json``.

Change them only with a new version of the keys (``fedcore.pool.stream.INFO``). The file
is written anew by ``python -m tests.golden.test_pool``.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.params import Params, bytes_of, digest
from fedcore.pool import Pool, direction, expand, fold, key_of, project, unfold, walk
from fedcore.pool.stream import PATCH, Keystream
from fedcore.seeds import words

FILE = Path(__file__).with_name("pool.json")
POOLS = (
    "hadamard:tile:256:0",
    "hadamard:shift:8:3",
    "hadamard:shift:1024:7",
    "hadamard:shift:65536:18446744073709551615",
    "hadamard:flip:1024:7",
    "signs:tile:16:7",
)


def numbers(count: int, name: str) -> torch.Tensor:
    """Return float32 numbers in [-1, 1), multiples of 2^-23."""
    raw = (words(count, "golden pool", name) >> np.uint64(40)).astype(np.float32)
    return torch.from_numpy(raw / np.float32(2**23) - 1)


def model() -> Params:
    """Return a little more than a patch of weights, of three types."""
    line = numbers(PATCH + 1000, "weights")
    return {
        "head": line[:900].view(30, 30).to(torch.bfloat16),
        "body": line[900 : PATCH + 900].view(-1, 256),
        "norm": line[PATCH + 900 :].to(torch.float64),
        "step": torch.tensor(0.25),
    }


def sha(t: torch.Tensor) -> str:
    return hashlib.sha256(bytes_of(t)).hexdigest()


def bits(word: str) -> dict[str, str]:
    """Return the hashes of what a pool does to ``model``."""
    pool, base = Pool.of(word), model()
    raw = (words(2 * pool.size, "golden pool", word) >> np.uint64(26)).astype(np.int64)
    a = (torch.from_numpy(raw) - 2**37).view(2, pool.size)
    target = {name: torch.empty_like(t) for name, t in base.items()}
    trip = walk(pool, target, base, a, 1e-3)
    trip.move(1, 2**33 + 1)
    trip.at(pool.size - 1, 1e-3)
    z = direction(pool, pool.size - 1, 5000, epoch=2, start=PATCH - 100)
    return {
        "direction": sha(z),
        "expand": digest(expand(pool, a, 1e-3, base)),
        "project": sha(project(pool, base, epoch=1)),
        "walk": digest(target),
    }


def folded() -> dict[str, str]:
    """Return the keystream's first bytes and hashes of a fold and its transpose."""
    key, line = key_of(7, 1), numbers(5000, "fold")
    sums = fold(key, line, 300, start=PATCH - 7)
    back = unfold(key, sums, 5000, 0.06, start=PATCH - 7)
    first = bytes_of(Keystream(key).words(0, 4)).hex()
    return {"key": key.hex(), "words": first, "fold": sha(sums), "unfold": sha(back)}


@pytest.mark.parametrize("word", POOLS)
def test_pools_are_fixed(word: str) -> None:
    assert bits(word) == json.loads(FILE.read_text())[word]


def test_folds_are_fixed() -> None:
    assert folded() == json.loads(FILE.read_text())["fold"]


if __name__ == "__main__":
    found = {"fold": folded(), **{word: bits(word) for word in POOLS}}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
