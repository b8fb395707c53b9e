"""The register of ``sims.mesh.register``: it ends as one, and forgets nothing."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from p2p.machine import Effect, Machine
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.liar import running
from sims.mesh.place import Place
from sims.mesh.register import NumberStore, Register
from sims.mesh.users import users
from sims.mesh.world import World

SET_S = 2.0  # between two numbers that users set


@dataclass
class RegisterScene:
    """Users set numbers; see the module."""

    nodes: int = 5
    minutes: float = 2.0
    settle_s: float = 60.0
    faults: Faults = ALL
    promised: dict[int, int] = field(default_factory=dict)  # host -> largest number

    def build(self, place: Place) -> Machine:
        return Register(place.disk.keep("number", NumberStore), place.rng)

    def begin(self, world: World) -> None:
        world.checks.append(self._keeps)
        users(world, SET_S, self._set)

    def _set(self, world: World, _dice: random.Random, number: int, host: Host) -> None:
        def act(machine: Machine, _now_s: float) -> Sequence[Effect]:
            return cast(Register, machine).set(number)

        if world.call(host, act) and host.honest:
            self.promised[host.index] = number

    def _keeps(self, _world: World, host: Host) -> str | None:
        """An old copy of a disk may forget; nothing else may."""
        promised = self.promised.get(host.index, 0)
        if host.rolled_back or value_of(host) >= promised:
            return None
        return f"had promised {promised} and knows only {value_of(host)}"

    def missing(self, world: World) -> str | None:
        values = {host.name: value_of(host) for host in world.honest}
        sure = [h.index for h in world.hosts if not (h.rolled_back or h.retired)]
        most = max((self.promised.get(index, 0) for index in sure), default=0)
        if len(set(values.values())) > 1 or min(values.values()) < most:
            return f"values {values}, and {most} was promised"
        return None

    def figures(self, world: World) -> Mapping[str, float]:
        return {"numbers set": len(self.promised)}


def value_of(host: Host) -> int:
    """Return the number that ``host`` knows."""
    return running(host, Register).value if host.up else 0
