"""Checkpoints that can be fetched: a set that grows, and the newest of each run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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

    runs: dict[str, dict[Checkpoint, set[str]]] = field(default_factory=dict)

    def take(self, said: Said) -> int:
        """Count an entry of kind CHECKPOINT; there is no lamport number: return 0."""
        body = read_as(Checkpoint, said.entry)
        self.runs.setdefault(body.run, {}).setdefault(body, set()).add(said.peer)
        return 0

    def view(self) -> Mapping[str, Shelf]:
        """Return the checkpoints of every run."""
        return MappingProxyType({run: _shelf(c) for run, c in self.runs.items()})


def _shelf(checkpoints: Mapping[Checkpoint, set[str]]) -> Shelf:
    vouched = {c: tuple(sorted(peers)) for c, peers in checkpoints.items()}
    newest = max(vouched, key=lambda c: (c.version, c.cid, c.size_bytes, c.state))
    return Shelf(MappingProxyType(vouched), newest)
