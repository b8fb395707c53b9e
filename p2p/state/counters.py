"""Counters that go up and down: each peer has its own two sums, and they add up.

What was cut off a log is said again in another, by each copy of the disk that had it;
it names where it was first said, and counts once for a peer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedcore.names import PeerId
from p2p.state.bodies import Count, read_as
from p2p.state.registers import Registers
from p2p.state.said import Said, Stamp


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
    """Sums by counter and log, each with the peer whose log it is."""

    sums: dict[str, dict[PeerId, tuple[PeerId, int, int]]] = field(default_factory=dict)
    again: Registers[tuple[str, PeerId, bytes], int] = field(default_factory=Registers)
    _names: dict[PeerId, set[str]] = field(default_factory=dict)  # by log

    def take(self, said: Said) -> int:
        """Count an entry of kind COUNT; there is no lamport number: return 0."""
        body, writer = read_as(Count, said.entry), said.place.writer
        if body.origin:
            stamp = Stamp(0, said.place)  # copies may differ only in a liar's log
            self.again.put((body.name, said.peer, body.origin), stamp, body.amount)
            return 0
        mine = self.sums.setdefault(body.name, {})
        _, plus, minus = mine.get(writer, (said.peer, 0, 0))
        plus, minus = plus + max(body.amount, 0), minus + max(-body.amount, 0)
        mine[writer] = said.peer, plus, minus
        self._names.setdefault(writer, set()).add(body.name)
        return 0

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        self.again.forget(writer)
        for name in self._names.pop(writer, ()):
            del self.sums[name][writer]
            if not self.sums[name]:
                del self.sums[name]

    def view(self) -> Mapping[str, Tally]:
        """Return all counters by name."""
        found: dict[str, dict[PeerId, tuple[int, int]]] = {}
        for name, rows in self.sums.items():
            for peer, plus, minus in rows.values():
                _add(found.setdefault(name, {}), peer, plus, minus)
        for (name, peer, _), amount in self.again.view().items():
            _add(found.setdefault(name, {}), peer, max(amount, 0), max(-amount, 0))
        tallies = {name: Tally(MappingProxyType(mine)) for name, mine in found.items()}
        return MappingProxyType(tallies)


def _add(
    sums: dict[PeerId, tuple[int, int]], peer: PeerId, plus: int, minus: int
) -> None:
    before = sums.get(peer, (0, 0))
    sums[peer] = before[0] + plus, before[1] + minus
