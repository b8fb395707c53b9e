"""The sum of updates by a tree of aggregators, and the settings of such a tree.

``InTurn`` does in this process what ``fedcore.hierarchy.pool`` does with several: the
same tree, the same orders, the same bits.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from fedcore.errors import ConfigError
from fedcore.hierarchy.plan import widths
from fedcore.hierarchy.role import Merge, Tree
from fedcore.partial import Partial, summed
from fedcore.strategy import Update

MOST_LEAVES = 256


class Aggregator(Protocol):
    """Sums updates. All aggregators give the same bits for the same updates."""

    def summed(self, updates: Iterable[Update]) -> Partial:
        """Return the exact sum of ``updates``, which may be a stream; none is kept.

        The sum belongs to the caller.

        Raises:
            ProtocolError: see ``Partial.add``.
        """
        ...


@dataclass(frozen=True, slots=True)
class InTurn:
    """A tree of aggregators that take turns in this process.

    Attributes:
        leaves: leaf aggregators, >= 1; each holds one sum.
        fan_in: sums that one aggregator takes, >= 2.
    """

    leaves: int = 1
    fan_in: int = 2

    def __post_init__(self) -> None:
        widths(self.leaves, self.fan_in)

    def summed(self, updates: Iterable[Update]) -> Partial:
        """Return the exact sum of ``updates``; see ``Aggregator``."""
        sums = self._leaves(updates)
        if not sums:
            return Partial()
        tree = Tree.over(tuple(range(len(sums))), self.fan_in)
        for leaf in range(len(sums)):
            tree, doing = tree.leaf_done(leaf)
            while isinstance(doing, Merge):
                sums[doing.into].merge(sums[doing.source])
                sums[doing.source] = Partial()  # free
                tree, doing = tree.merge_done(doing)
        return sums[0]  # the first to finish was promoted all the way

    def _leaves(self, updates: Iterable[Update]) -> list[Partial]:
        """Return the sums of the leaves, dealt round; none without an update."""
        if isinstance(updates, Sequence):  # small updates are quicker together
            count = min(self.leaves, len(updates))
            return [summed(updates[i :: self.leaves]) for i in range(count)]
        sums: list[Partial] = []
        for number, update in enumerate(updates):
            if number < self.leaves:
                sums.append(Partial())
            sums[number % self.leaves].add(update)
        return sums


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Whether and how a coordinator sums answers as they come.

    Attributes:
        leaves: leaf aggregators that sum answers as they come; 0 keeps all answers
            until they are folded. Changes no bit.
        fan_in: sums that an aggregator above the leaves takes, >= 2.
        processes: give every leaf a process of its own, with shared memory; pays for
            models above some million numbers.
    """

    leaves: int = 0
    fan_in: int = 2
    processes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.leaves <= MOST_LEAVES:
            raise ConfigError(
                f"leaves must be in [0, {MOST_LEAVES}], not {self.leaves}"
            )
        if self.fan_in < 2:
            raise ConfigError(f"fan_in must be >= 2, not {self.fan_in}")
        if self.processes and not self.leaves:
            raise ConfigError(
                "processes needs leaves: set how many, such as leaves = 2"
            )

    def open(self) -> AbstractContextManager[Aggregator | None]:
        """Return the aggregator to use, or None; it is closed on leaving."""
        if not self.leaves:
            return nullcontext()
        if not self.processes:
            return nullcontext(InTurn(self.leaves, self.fan_in))
        from fedcore.hierarchy.pool import Pool

        return Pool(self.leaves, self.fan_in)
