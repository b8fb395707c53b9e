"""Adding an update to a shared sum, so that kill -9 at any moment is harmless.

The sum is changed block by block. The new block is first made in a scratch place; then
one 64-bit word, the cell, says that it is ready; then it is copied over the old one;
then the cell says that it is in place. Whoever goes on after a kill reads the cell: a
block that is ready is copied (again), one that is not is made (again). Either way the
result is the one that an undisturbed fold has, and the update is added exactly once.

The stores of a killed process become visible to others in the order of its program,
as the kernel stops it between two instructions; nothing needs to be flushed. (Power
loss is another matter: the memory is gone then, and the round is done again.)

The arithmetic is that of ``fedcore.ring``, which stays the reference: a test compares
them, bit for bit.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from fedcore.hierarchy.arena import BLOCK, INT64, Arena, Cell, Integers, Numbers

PHASES = 1 << 32  # steps of one fold that a cell can count: two a block


@dataclass(frozen=True, slots=True)
class Order:
    """What an aggregator is to add to its sum.

    Attributes:
        serial: of the order, counted by aggregator from 1, below 2^31.
        at: where the numbers begin in the arena, in bytes.
        kind: what they are (``fedcore.hierarchy.arena.KINDS``).
        first: they replace what the sum held before.
        scale: the ring's unit times the weight; integers are taken as they are.
    """

    serial: int
    at: int
    kind: int
    first: bool
    scale: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where one aggregator works.

    Attributes:
        cell: serial and phase of the last order, (1,).
        scratch: one block, (BLOCK,).
        total: the sum, (numbers,).
        real: memory of its own for one block, (BLOCK,).
    """

    cell: Cell
    scratch: Integers
    total: Integers
    real: npt.NDArray[np.float64]

    @classmethod
    def of(cls, arena: Arena, aggregator: int) -> Self:
        """Return the place of ``aggregator`` in ``arena``."""
        cell, scratch = arena.cell(aggregator), arena.scratch(aggregator)
        return cls(cell, scratch, arena.sum(aggregator), np.empty(BLOCK))

    def add(self, x: Numbers, order: Order) -> None:
        """Do ``order`` from where it stands; nothing if it is done already."""
        blocks = -(-len(self.total) // BLOCK)
        for phase in range(self._phase(order.serial), 2 * blocks):
            start = phase // 2 * BLOCK
            total = self.total[start : start + BLOCK]
            scratch = self.scratch[: len(total)]
            if phase % 2:
                total[:] = scratch
            else:
                self._make(scratch, total, x[start : start + BLOCK], order)
            self.cell[0] = order.serial * PHASES + phase + 1

    def _phase(self, serial: int) -> int:
        """Return the phase from which to go on."""
        last, phase = divmod(int(self.cell[0]), PHASES)
        if last < serial:
            return 0
        return phase if last == serial else PHASES

    def _make(
        self, scratch: Integers, total: Integers, x: Numbers, order: Order
    ) -> None:
        """Write ``total`` plus the encoded ``x`` to ``scratch``."""
        if order.kind == INT64:
            scratch[:] = x
        else:
            real = self.real[: len(x)]
            np.multiply(x, order.scale, out=real, dtype=np.float64)
            np.rint(real, out=real)
            np.copyto(scratch, real, casting="unsafe")  # whole numbers below 2^62
        if not order.first:
            np.add(total, scratch, out=scratch)
