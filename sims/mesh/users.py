"""People at the keyboards of simulated peers, and what they were told is safe."""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from sims.mesh.host import Host
from sims.mesh.world import World

Act = Callable[[World, random.Random, int, Host], None]


def users(world: World, gap_s: float, act: Act, first: int = 1) -> None:
    """Let people act at random hosts, again and again, while things go wrong.

    Args:
        world: the hosts.
        gap_s: true seconds between two acts, on average.
        act: given the world, its own dice, its number and the host.
        first: number of the first act.
    """
    if world.nemesis.done:
        return
    dice = world.dice("user", first)
    act(world, dice, first, dice.choice(world.hosts))
    wait_s = dice.expovariate(1 / gap_s)
    world.later(wait_s, lambda: users(world, gap_s, act, first + 1))


@dataclass
class Promises:
    """What users have written and hosts have acknowledged, by host."""

    by_host: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def count(self) -> int:
        """How many entries were acknowledged."""
        return sum(map(len, self.by_host.values()))

    def add(self, host: Host, names: Sequence[str]) -> None:
        """Note that ``host`` has acknowledged ``names``."""
        self.by_host[host.index] += names

    def sure(
        self, world: World, among: Sequence[Host], but: Collection[PeerId] = ()
    ) -> set[str]:
        """Return what ``among`` have acknowledged and nothing excuses to be lost.

        An old copy of a disk takes back what came after it, what only a machine knew
        that is gone for ever is gone too, and nobody answers for liars.
        """
        back = {h.original for h in world.hosts if h.rolled_back}
        return {
            name
            for host in among
            if host.honest and not host.retired
            if host.original not in back and host.peer not in but
            for name in self.by_host.get(host.index, ())
        }
