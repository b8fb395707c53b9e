"""Every pair of hosts that can connect does so, again and again."""

from typing import TYPE_CHECKING

from fedcore.names import PeerId
from sims.mesh.host import Host

if TYPE_CHECKING:
    from sims.mesh.world import World

REDIAL_S = (0.5, 4.0)


class Dialling:
    """Connects hosts for machines that do not dial themselves."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._planned: set[tuple[int, int]] = set()

    def all(self, a: Host) -> None:
        """Let ``a`` and all others look for one another."""
        for b in self.world.hosts:
            self.plan(a, b)

    def plan(self, a: Host, b: Host) -> None:
        """Let ``a`` and ``b`` try to connect in a while, if they may at all."""
        pair = (min(a.index, b.index), max(a.index, b.index))
        if a.peer == b.peer or (a.hidden and b.hidden) or pair in self._planned:
            return
        if self.world.wanted(a, b):
            self._planned.add(pair)
            rng = self.world.air.line(*(self.world.hosts[i] for i in pair)).rng
            self.world.later(rng.uniform(*REDIAL_S), lambda: self._dial(pair))

    def at_once(self, a: Host, peer: PeerId) -> None:
        """Connect ``a`` with ``peer`` now, if they are not and nothing is between."""
        world = self.world
        if world.wires.wire(a, peer) is not None:
            return
        for b in world.hosts:
            able = b.peer == peer != a.peer and b.up and not (a.hidden and b.hidden)
            if able and world.air.meet(a, b) and world.wires.free(a, b):
                world.wires.connect(a, b)
                return

    def _dial(self, pair: tuple[int, int]) -> None:
        self._planned.discard(pair)
        a, b = (self.world.hosts[i] for i in pair)
        wires = self.world.wires
        if not (a.up and b.up) or wires.joined(a, b):
            return  # who boots dials
        if self.world.air.meet(a, b) and wires.free(a, b):
            wires.connect(a, b)
        else:
            self.plan(a, b)
