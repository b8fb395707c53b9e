"""What a peer says to the others: numbers added, or a peer to be left out.

A fact is one peer's next addition to its own register of coefficients. Facts of a
peer are numbered from 1 in every epoch, and each carries the hash of the register
after it: whoever holds the register before can check that both count the same, and
the last fact of a peer, once signed, vouches for the peer's whole register.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.pool import Pool
from fedcore.strategy import PeerId

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What peers must have in common before their coefficients can be added.

    Attributes:
        pool: the directions.
        base: SHA-256 of the first weights, in hex (``fedcore.params.digest``).
        scale: real size of a coefficient of 1, such as minus the learning rate.

    Raises:
        ConfigError: ``base`` is no digest, or ``scale`` is 0 or not finite.
    """

    pool: Pool
    base: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.base):
            raise ConfigError(
                f"the base {self.base[:80]!r} is no SHA-256 in hex; take "
                "fedcore.params.digest of the first weights"
            )
        if not 0 < abs(self.scale) < torch.inf:
            raise ConfigError(f"scale must be finite and not 0, got {self.scale}")

    @property
    def reach(self) -> int:
        """Return the largest size of a coefficient, in units of 2^-32.

        All K of them together are half of what a pool expands exactly, so that there
        is room for what a peer adds on its own: 2^19 in real numbers for K = 1024.
        """
        return (1 << 61) // self.pool.size


@dataclass(frozen=True, slots=True)
class Fact:
    """One addition to the register of ``peer``.

    Attributes:
        epoch: of the pool, >= 0.
        seq: number of the fact among those of this peer and epoch, from 1.
        after: SHA-256 of the peer's register with this fact in it, in hex.
        indices: which coefficients, ascending, int64 (n,).
        amounts: what to add, not 0, in units of 2^-32, int64 (n,).
    """

    origin: Origin
    epoch: int
    peer: PeerId
    seq: int
    after: str
    indices: Tensor
    amounts: Tensor


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """All that ``peer`` has added in the open epoch goes; nothing more is taken."""

    origin: Origin
    peer: PeerId


def dense(fact: Fact) -> Tensor:
    """Return the amounts of ``fact`` for all coefficients, int64 (K,)."""
    line = torch.zeros(fact.origin.pool.size, dtype=torch.int64)
    line[fact.indices] = fact.amounts
    return line
