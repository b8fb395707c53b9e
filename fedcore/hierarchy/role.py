"""Who merges into whom, and when: the control of one aggregation, without the sums.

Leaves add updates as they come. The first of a group to finish is promoted: with its
sum where it is, it becomes the middle aggregator of the group and takes the sums of
the others as they finish. So it goes on to the top, and no aggregator is started for
it. Whoever has handed on its sum is free.

A pure state machine, as pacers are: whoever runs the aggregators tells it what
finished, and does what it says. Sums are exact, so the order of events decides who
does the work and never the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from fedcore.errors import ConfigError
from fedcore.hierarchy.plan import Widths, inputs, widths

Spot: TypeAlias = tuple[int, int]  # level, index in it


@dataclass(frozen=True, slots=True)
class Merge:
    """To do: aggregator ``into`` adds the whole sum of ``source``, for ``spot``."""

    source: int
    into: int
    spot: Spot


@dataclass(frozen=True, slots=True)
class Total:
    """Done: the sum of everything is that of aggregator ``holder``."""

    holder: int


Effect: TypeAlias = Merge | Total


@dataclass(frozen=True, slots=True)
class Tree:
    """One aggregation under way.

    Attributes:
        fan_in: sums that one aggregator takes, >= 2, its own included.
        levels: aggregators per level.
        leaves: which aggregator each leaf is.
        holders: who was promoted to a spot above the leaves.
        taken: sums that are in at a spot, the holder's own included.
        finished: leaves that have finished.
        merging: what was asked for and is not done yet.
    """

    fan_in: int
    levels: Widths
    leaves: tuple[int, ...]
    holders: Mapping[Spot, int] = field(default_factory=dict)
    taken: Mapping[Spot, int] = field(default_factory=dict)
    finished: frozenset[int] = frozenset()
    merging: frozenset[Merge] = frozenset()

    @classmethod
    def over(cls, leaves: tuple[int, ...], fan_in: int) -> "Tree":
        """Return the tree before any of the aggregators ``leaves`` has finished.

        Raises:
            ConfigError: there is no leaf, one is named twice, or ``fan_in`` < 2.
        """
        if len(set(leaves)) != len(leaves):
            raise ConfigError(f"an aggregator is two leaves: {leaves}")
        return cls(fan_in, widths(len(leaves), fan_in), leaves)

    def leaf_done(self, aggregator: int) -> tuple["Tree", Effect | None]:
        """Return the tree after a leaf has added all its updates, and what to do.

        Raises:
            ConfigError: it is no leaf of this tree, or had finished before.
        """
        if aggregator not in self.leaves or aggregator in self.finished:
            raise ConfigError(f"aggregator {aggregator} is no leaf that is at work")
        after = replace(self, finished=self.finished | {aggregator})
        return after._up((0, self.leaves.index(aggregator)), aggregator)

    def merge_done(self, merge: Merge) -> tuple["Tree", Effect | None]:
        """Return the tree after ``merge`` was done, and what to do next.

        Raises:
            ConfigError: it was not to be done.
        """
        if merge not in self.merging:
            raise ConfigError(f"nobody asked for {merge}, or it was done before")
        spot = merge.spot
        after = replace(
            self,
            taken={**self.taken, spot: self.taken[spot] + 1},
            merging=self.merging - {merge},
        )
        return after._complete(spot)

    def _up(self, spot: Spot, holder: int) -> tuple["Tree", Effect | None]:
        """Hand on the sum of ``spot``, which is complete and at ``holder``."""
        level, index = spot
        if level == len(self.levels) - 1:
            return self, Total(holder)
        above = (level + 1, index // self.fan_in)
        if above in self.holders:
            merge = Merge(holder, self.holders[above], above)
            return replace(self, merging=self.merging | {merge}), merge
        after = replace(
            self,
            holders={**self.holders, above: holder},
            taken={**self.taken, above: 1},
        )
        return after._complete(above)

    def _complete(self, spot: Spot) -> tuple["Tree", Effect | None]:
        if self.taken[spot] < inputs(self.levels, self.fan_in, *spot):
            return self, None
        return self._up(spot, self.holders[spot])
