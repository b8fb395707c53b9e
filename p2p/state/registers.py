"""Values that are replaced: of all that were written, the one of the greatest stamp.

Of each log the newest value is kept, so that a log can be forgotten.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from fedcore.names import PeerId
from p2p.state.said import Stamp

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class Registers(Generic[K, V]):
    """Last-writer-wins registers by key; putting commutes and repeats harmlessly."""

    values: dict[K, dict[PeerId, tuple[Stamp, V]]] = field(default_factory=dict)
    _keys: dict[PeerId, set[K]] = field(default_factory=dict)  # by log

    def put(self, key: K, stamp: Stamp, value: V) -> None:
        """Take in a value."""
        mine, writer = self.values.setdefault(key, {}), stamp.place.writer
        old = mine.get(writer)
        if old is None or old[0] < stamp:
            mine[writer] = (stamp, value)
        self._keys.setdefault(writer, set()).add(key)

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        for key in self._keys.pop(writer, ()):
            del self.values[key][writer]
            if not self.values[key]:
                del self.values[key]

    def view(self) -> Mapping[K, V]:
        """Return the value that counts of every key."""
        newest = {k: max(v.values(), key=_stamp) for k, v in self.values.items()}
        return MappingProxyType({k: value for k, (_, value) in newest.items()})


def _stamp(row: tuple[Stamp, V]) -> Stamp:
    return row[0]
