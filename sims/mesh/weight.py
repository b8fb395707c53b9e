"""How much a machine remembers, to see that it has a limit."""

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sims.mesh.world import World

PER_OBJECT = 64  # bytes, about
MOST_DEEP = 40


def weight_bytes(thing: object) -> int:
    """Return about how many bytes ``thing`` holds, everything below it included."""
    seen: set[int] = set()
    waiting: list[tuple[object, int]] = [(thing, 0)]
    total = 0
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or depth > MOST_DEEP or callable(value):
            continue
        seen.add(id(value))
        total += PER_OBJECT
        if isinstance(value, bytes | bytearray | str):
            total += len(value)
        else:
            waiting += [(part, depth + 1) for part in _parts(value)]
    return total


def _parts(value: object) -> list[object]:
    """Return what ``value`` holds."""
    if isinstance(value, int | float | None):
        return []  # most of what there is
    if isinstance(value, dict | Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | deque | Set):
        return list(value)
    if is_dataclass(value) or type(value).__module__.startswith(("p2p.", "sims.")):
        slots = getattr(type(value), "__slots__", ())
        names = [slots] if isinstance(slots, str) else list(slots)
        return [*getattr(value, "__dict__", {}).values(),
                *(getattr(value, name, None) for name in names)]  # fmt: skip
    return []


@dataclass
class Scales:
    """Weighs the machines of a world now and then, for ``World.looks``.

    Attributes:
        limit_bytes: most that one machine may hold.
        every_s: true seconds between two weighings.
        heaviest: most that one was seen to hold, in bytes.
    """

    limit_bytes: int
    every_s: float = 15.0
    heaviest: int = 0
    next_s: float = 0.0

    def __call__(self, world: "World") -> str | None:
        """Return which honest machine holds too much; None if none does."""
        if world.now_s < self.next_s:
            return None
        self.next_s = world.now_s + self.every_s
        for host in world.honest:
            held = weight_bytes(host.machine)
            self.heaviest = max(held, self.heaviest)
            if held > self.limit_bytes:
                return f"{host.name} holds {held} bytes, more than {self.limit_bytes}"
        return None
