"""Where a machine lives: its key, its clocks, its dice and its disk.

What survives a power cut is what a store has committed. A host keeps its stores here
under names; a machine that is built again gets the same ones, after their ``crash()``.
"""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.state.talks import Habits


class Store(Protocol):
    """Something that loses what it has not committed."""

    def crash(self) -> None:
        """Forget what was not committed."""
        ...


S = TypeVar("S", bound=Store)


class PowerCut(BaseException):
    """The host loses power inside a call of its store. No machine may catch it."""


class Fuse:
    """Blows before the n-th use of a disk from now; a machine must be at it."""

    def __init__(self) -> None:
        self.uses_left, self._counts = 0, False

    def __enter__(self) -> None:
        self._counts = True  # the machine acts; others may look at the disk freely

    def __exit__(self, *_: object) -> None:
        self._counts = False

    def arm(self, uses: int) -> None:
        """Blow before the use number ``uses``, counted from 1; 0 disarms."""
        self.uses_left = uses

    def burn(self) -> bool:
        """Count one use; return whether this is the one."""
        if not self._counts or not self.uses_left:
            return False
        self.uses_left -= 1
        return not self.uses_left


class Brittle:
    """A store as a machine sees it: the power may go before any call of it."""

    def __init__(self, store: object, fuse: Fuse) -> None:
        self._store, self._fuse = store, fuse

    def __getattr__(self, name: str) -> object:
        value = getattr(self._store, name)
        if callable(value) and self._fuse.burn():
            raise PowerCut
        return value


@dataclass
class Disk:
    """The stores of one host by name."""

    stores: dict[str, Store] = field(default_factory=dict)
    fuse: Fuse = field(default_factory=Fuse)

    def keep(self, name: str, make: Callable[[], S]) -> S:
        """Return the store called ``name``, made by ``make`` when it is new."""
        if name not in self.stores:
            self.stores[name] = make()
        return cast(S, Brittle(self.stores[name], self.fuse))

    def crash(self) -> None:
        """Lose what was not committed."""
        self.fuse.arm(0)
        for store in self.stores.values():
            store.crash()

    def image(self) -> "Disk":
        """Return a copy of what a power cut now would leave."""
        copied = Disk(copy.deepcopy(self.stores))
        copied.crash()
        return copied


@dataclass(frozen=True)
class Place:
    """What a machine is built from.

    Attributes:
        index: number of the host, from 0; a clone has that of its original.
        host: number of the host itself; a clone has its own.
        key: who it is; a clone has that of its original.
        peers: the ids of all first hosts, in the order of their index.
        boot: how often this host has booted before.
        fresh: this is the very first start of the key, and no copy of it.
        rng: dice of this boot.
        wall: the date, in seconds since 1970; may be wrong and may jump.
        disk: what is left of earlier boots.
    """

    index: int
    host: int
    key: Key
    peers: Sequence[PeerId]
    boot: int
    fresh: bool
    rng: random.Random
    wall: Callable[[], float]
    disk: Disk

    @property
    def peer(self) -> PeerId:
        return self.peers[self.index]

    def habits(self) -> Habits:
        """Return the habits of a replica here, which draws everything from our dice."""
        return Habits(fresh=self.fresh, fresh_key=lambda: Key(self.rng.randbytes(32)))
