"""A model that is a sum, so that the order in which its parts arrive is nothing.

Notation: A^(p) = register of peer p, z_k = direction k of the pool, w0 = first weights:

    w = w0 + scale * sum_k (sum_p A^(p)_k) 2^-32 z_k

Every peer adds to its own register only, and numbers what it adds. A register is
replaced by one of a higher number; so models merge in any order and grouping, any
number of times, and those who heard the same hold the same bits. To leave a peer out
is to drop its register.

Additions of a peer count in the order of their numbers, without gaps. So a register
is named by its peer and number alone, which is what makes the highest one the join of
two: no list of numbers seen, no log, 8 K bytes a peer whatever the length of training.

Saturation: a register stops at ``origin.reach`` in size, and so does the sum of all
of them; both are counted. A register's additions have one order, so that the stop
does not depend on the order of arrival either; sums are exact before they are cut.

Source: state-based sets of grow-only counters as in Shapiro et al., "Conflict-free
Replicated Data Types", 2011; the sum over directions as in Qin et al., "Federated
Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under
18 Kilobytes", 2023, https://arxiv.org/abs/2312.06353.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor

from fedcore.orderfree.facts import Fact, Origin, dense
from fedcore.orderfree.packing import packed
from fedcore.params import Params, bytes_of
from fedcore.pool import expand
from fedcore.strategy import PeerId
from fedcore.wire import text, varint

PEERS = 1 << 16  # most registers


@dataclass(frozen=True, slots=True)
class Register:
    """What one peer has added in the open epoch.

    Attributes:
        seq: number of its last fact; 0 if there is none.
        coefficients: the sum of its facts, int64 (K,); written by nobody.
        clipped: how many times one of them was stopped at the reach.
    """

    seq: int
    coefficients: Tensor
    clipped: int = 0

    @classmethod
    def empty(cls, origin: Origin) -> Self:
        return cls(0, torch.zeros(origin.pool.size, dtype=torch.int64))

    def plus(self, fact: Fact) -> Self:
        """Return the register with ``fact``, which is within reach, in it."""
        reach = fact.origin.reach
        total = self.coefficients + dense(fact)
        clipped = int((total.abs() > reach).sum())
        return replace(
            self,
            seq=self.seq + 1,
            coefficients=total.clamp_(-reach, reach),
            clipped=self.clipped + clipped,
        )

    def same(self, other: "Register") -> bool:
        """Tell whether both are equal bit for bit."""
        numbers = (self.seq, self.clipped) == (other.seq, other.clipped)
        return numbers and torch.equal(self.coefficients, other.coefficients)


@dataclass(frozen=True, slots=True)
class Model:
    """All that was added to the weights, and by whom.

    Attributes:
        closed: the sums of epochs that are over, int64 (epochs, K).
        past: SHA-256 of what the open epoch builds upon, in hex; see ``past_of``.
        registers: of the open epoch; only peers of whom there is a fact.
        withdrawn: peers that are left out, for ever.
        clipped: how often a number was stopped at the reach, in closed epochs.
    """

    origin: Origin
    closed: Tensor
    past: str
    registers: Mapping[PeerId, Register] = field(default_factory=dict)
    withdrawn: frozenset[PeerId] = frozenset()
    clipped: int = 0

    @property
    def epoch(self) -> int:
        """Return the number of the open epoch."""
        return len(self.closed)

    def register(self, peer: PeerId) -> Register:
        """Return what ``peer`` has added; empty if it never did."""
        return self.registers.get(peer) or Register.empty(self.origin)

    def vector(self) -> dict[PeerId, int]:
        """Return the number of the last fact of every peer."""
        return {peer: register.seq for peer, register in self.registers.items()}

    def total(self) -> Tensor:
        """Return the sum of all registers, int64 (K,), within the reach."""
        return self._summed()[0]

    def coefficients(self) -> Tensor:
        """Return one row an epoch, the open one last: int64 (epochs + 1, K)."""
        return torch.cat([self.closed, self.total().unsqueeze(0)])

    def saturated(self) -> int:
        """Return how often a number was stopped at the reach; 0 in a sound run."""
        registers = sum(r.clipped for r in self.registers.values())
        return self.clipped + registers + self._summed()[1]

    def weights(self, base: Params) -> Params:
        """Return the weights, given the first ones: one pass over them an epoch.

        ``base`` has the tensors that directions move, and no others.
        """
        origin = self.origin
        return expand(origin.pool, self.coefficients(), origin.scale, base)

    def _summed(self) -> tuple[Tensor, int]:
        """Return the total, and how many of its numbers were stopped.

        High and low halves are added apart: 2^16 numbers of 2^60 pass 64 bits.
        """
        rows = [r.coefficients for r in self.registers.values()]
        high = torch.zeros(self.origin.pool.size, dtype=torch.int64)
        low = high.clone()
        for row in rows:
            high += row >> 32
            low += row & 0xFFFFFFFF
        high += low >> 32
        low &= 0xFFFFFFFF
        reach = self.origin.reach
        top = (reach >> 32) + 1
        total = (high.clamp(-top, top) << 32) + low
        return total.clamp(-reach, reach), int((total.abs() > reach).sum())


def begin(origin: Origin) -> Model:
    """Return the model to which nobody has added anything."""
    closed = torch.zeros((0, origin.pool.size), dtype=torch.int64)
    return Model(origin, closed, past_of(origin, closed))


def past_of(origin: Origin, closed: Tensor, clipped: int = 0) -> str:
    """Return the SHA-256 that names an epoch: all that its registers build upon."""
    words = [f"fedcore/orderfree/v1\n{origin.pool.word()}\n{origin.base}\n"]
    words.append(f"{float(origin.scale).hex()}\n{len(closed)} {clipped}\n")
    return sha256("".join(words).encode() + bytes_of(closed)).hexdigest()


def head_of(past: str, peer: PeerId, register: Register) -> str:
    """Return the SHA-256 of the register of ``peer`` in the epoch named ``past``."""
    numbers = varint(register.seq) + varint(register.clipped)
    whole = [bytes.fromhex(past), text(peer), numbers, packed(register.coefficients)]
    return sha256(b"".join(whole)).hexdigest()
