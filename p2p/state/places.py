"""Entries that are only listed, by a name they begin with, and read when asked for.

Facts and notes: their bodies are large, need packages that are slow to load, and are
of use only to those who look at that run or document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import overload

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.state.bodies import Note, RunFact, read_body
from p2p.state.said import Place, Said


@dataclass(frozen=True, slots=True)
class Listed(Sequence[Place]):
    """The first ``size`` of a list that only grows: a snapshot that costs nothing.

    The order is that of arrival, which differs between replicas; only entries of one
    writer are in the order of their positions.
    """

    places: Sequence[Place]
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> Place: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Place]: ...

    def __getitem__(self, at: int | slice) -> Place | Sequence[Place]:
        if isinstance(at, slice):
            return [self.places[i] for i in range(*at.indices(self.size))]
        return self.places[range(self.size)[at]]


@dataclass
class Places:
    """Places of entries by name."""

    by_name: dict[str, list[Place]] = field(default_factory=dict)
    _names: dict[PeerId, set[str]] = field(default_factory=dict)  # by log

    def take(self, said: Said) -> int:
        """List an entry; there is no lamport number: return 0."""
        body = read_body(said.entry.kind, said.entry.body)
        match body:
            case RunFact(name) | Note(name):
                self.by_name.setdefault(name, []).append(said.place)
                self._names.setdefault(said.place.writer, set()).add(name)
            case _:
                raise ProtocolError(f"no list for entries of {said.entry.kind.name}")
        return 0

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``, in a new list."""
        for name in self._names.pop(writer, ()):
            left = [place for place in self.by_name[name] if place.writer != writer]
            self.by_name[name] = left
            if not left:
                del self.by_name[name]

    def view(self) -> Mapping[str, Listed]:
        """Return all places by name."""
        found = {name: Listed(p, len(p)) for name, p in self.by_name.items()}
        return MappingProxyType(found)
