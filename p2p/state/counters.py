"""Counters that go up and down: each peer has its own two sums, and they add up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedcore.names import PeerId
from p2p.state.bodies import Count, read_as
from p2p.state.said import Said


@dataclass(frozen=True, slots=True)
class Tally:
    """One counter.

    Attributes:
        by_peer: what each peer has added and taken away, both >= 0.
    """

    by_peer: Mapping[PeerId, tuple[int, int]]

    @property
    def total(self) -> int:
        """All that was added, less all that was taken away."""
        return sum(plus - minus for plus, minus in self.by_peer.values())


@dataclass
class Counters:
    """Sums by counter and peer."""

    sums: dict[str, dict[PeerId, tuple[int, int]]] = field(default_factory=dict)

    def take(self, said: Said) -> int:
        """Count an entry of kind COUNT; there is no lamport number: return 0."""
        body = read_as(Count, said.entry)
        mine = self.sums.setdefault(body.name, {})
        plus, minus = mine.get(said.peer, (0, 0))
        mine[said.peer] = plus + max(body.amount, 0), minus + max(-body.amount, 0)
        return 0

    def view(self) -> Mapping[str, Tally]:
        """Return all counters by name."""
        tallies = {n: Tally(MappingProxyType(dict(s))) for n, s in self.sums.items()}
        return MappingProxyType(tallies)
