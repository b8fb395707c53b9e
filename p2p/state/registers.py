"""Values that are replaced: of all that were written, the one of the greatest stamp."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from p2p.state.said import Stamp

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class Registers(Generic[K, V]):
    """Last-writer-wins registers by key; putting commutes and repeats harmlessly."""

    values: dict[K, tuple[Stamp, V]] = field(default_factory=dict)

    def put(self, key: K, stamp: Stamp, value: V) -> None:
        """Take in a value."""
        old = self.values.get(key)
        if old is None or old[0] < stamp:
            self.values[key] = (stamp, value)

    def view(self) -> Mapping[K, V]:
        """Return the value that counts of every key."""
        return MappingProxyType({k: value for k, (_, value) in self.values.items()})
