"""Checkpoints that can be fetched: a set that grows, and the newest of each run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedcore.names import PeerId
from p2p.state.bodies import Checkpoint, read_as
from p2p.state.said import Said


@dataclass(frozen=True, slots=True)
class Shelf:
    """The checkpoints of one run.

    Attributes:
        all: every one, each with the peers that vouch for it, sorted.
        newest: of the highest version; of several, the one of the greatest id.
    """

    all: Mapping[Checkpoint, tuple[str, ...]]
    newest: Checkpoint


@dataclass
class Catalogue:
    """Checkpoints by run."""

    runs: dict[str, dict[Checkpoint, dict[PeerId, PeerId]]] = field(
        default_factory=dict
    )  # who vouches, by log
    _said: dict[PeerId, set[Checkpoint]] = field(default_factory=dict)  # by log

    def take(self, said: Said) -> int:
        """Count an entry of kind CHECKPOINT; there is no lamport number: return 0."""
        body, writer = read_as(Checkpoint, said.entry), said.place.writer
        vouching = self.runs.setdefault(body.run, {}).setdefault(body, {})
        vouching[writer] = said.peer
        self._said.setdefault(writer, set()).add(body)
        return 0

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        for body in self._said.pop(writer, ()):
            shelf = self.runs[body.run]
            del shelf[body][writer]
            if not shelf[body]:
                del shelf[body]
            if not shelf:
                del self.runs[body.run]

    def view(self) -> Mapping[str, Shelf]:
        """Return the checkpoints of every run."""
        return MappingProxyType({run: _shelf(c) for run, c in self.runs.items()})


def _shelf(checkpoints: Mapping[Checkpoint, Mapping[PeerId, PeerId]]) -> Shelf:
    vouched = {c: tuple(sorted({*by.values()})) for c, by in checkpoints.items()}
    newest = max(vouched, key=lambda c: (c.version, c.cid, c.size_bytes, c.state))
    return Shelf(MappingProxyType(vouched), newest)
