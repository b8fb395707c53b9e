"""A pool: K directions in the space of a model's weights, known by a short word.

Notation: K = ``size``, z_k = direction k, D = signs of the keystream, H = Sylvester's
Hadamard matrix with H[k, j] = (-1)^popcount(k & j), i = flat offset of a weight,
b = i div K its block, j = i mod K its place in the block:

    hadamard, tie tile    z_k[i] = D[i] H[k, j]
    hadamard, tie shift   z_k[i] = D[i] H[k, j xor r_b]        r_b a multiple of 8
    hadamard, tie flip    z_k[i] = D[i] p_b[k] H[k, j]         p_b[k] = +1 or -1
    signs                 z_k[i] = +1 or -1, independent for all k and i
    gaussian              z_k[i] standard normal, independent for all k and i

All but ``gaussian`` are the same bits on every machine. Torch's normal numbers differ
between processors, so that kind is for comparisons on one machine only.
"""

import difflib
from dataclasses import dataclass
from typing import Self

from fedcore.errors import ConfigError, ProtocolError

KINDS = ("hadamard", "signs", "gaussian")
TIES = ("tile", "shift", "flip")


@dataclass(frozen=True, slots=True)
class Pool:
    """K shared directions; two pools of the same fields are the same directions.

    Attributes:
        size: K, a power of two, 2 .. 65536.
        kind: "hadamard" (structured, fast), "signs" or "gaussian" (for comparison).
        tie: hadamard only, what ties the blocks of a direction: see the module.
        seed: names the pool, 0 .. 2^64 - 1.

    Raises:
        ConfigError: a field is out of range.
    """

    size: int = 1024
    kind: str = "hadamard"
    tie: str = "shift"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.size <= 65536 or self.size & (self.size - 1):
            raise ConfigError(
                f"a pool of {self.size} directions: take a power of two, 2 .. 65536"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"pool seed {self.seed}: take 0 .. 2^64 - 1")
        _one_of("pool kind", self.kind, KINDS)
        _one_of("pool tie", self.tie, TIES)

    def word(self) -> str:
        """The pool as a short text, such as ``hadamard:shift:1024:7``."""
        return f"{self.kind}:{self.tie}:{self.size}:{self.seed}"

    def check(self, k: int) -> None:
        """Refuse an index that is not of this pool.

        Raises:
            ProtocolError: ``k`` is not in 0 .. K - 1.
        """
        if not 0 <= k < self.size:
            raise ProtocolError(f"direction {k}: the pool has 0 .. {self.size - 1}")

    @classmethod
    def of(cls, word: str) -> Self:
        """Read ``word`` back.

        Raises:
            ProtocolError: ``word`` is not the word of a pool.
        """
        parts = word.split(":")
        if len(parts) != 4 or not all(p.isascii() and p.isdigit() for p in parts[2:]):
            raise ProtocolError(f"not a pool: {word[:80]!r}")
        try:
            pool = cls(int(parts[2]), parts[0], parts[1], int(parts[3]))
        except ValueError as odd:  # ConfigError is one; so is a number too long to read
            raise ProtocolError(f"not a pool: {word[:80]!r}: {odd}") from odd
        if pool.word() != word:
            raise ProtocolError(f"not a pool: {word[:80]!r}: written {pool.word()!r}")
        return pool


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given in known:
        return
    near = difflib.get_close_matches(given, known, 1, 0.0)
    raise ConfigError(f"{what} {given!r} is not known; did you mean {near[0]!r}?")
