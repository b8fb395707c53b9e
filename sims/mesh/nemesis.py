"""The one who makes things go wrong, as planned, and who stops at last."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sims.mesh.faults import Fault, Faults, plan

if TYPE_CHECKING:
    from sims.mesh.host import Host
    from sims.mesh.world import World

STORE_WAIT_S = 5.0  # a disk that is not used for so long loses power anyway


class Nemesis:
    """Carries out a plan of faults.

    Attributes:
        plan: every fault that the seed planned, in order; also those left out.
        done: whether everything that goes wrong has stopped.
    """

    def __init__(
        self, world: "World", faults: Faults, chaos_s: float, without: frozenset[int]
    ) -> None:
        self.world, self.without, self.done = world, without, False
        hosts = len(world.hosts)
        self.plan = plan(world.dice("plan"), faults, hosts, chaos_s)
        for number, fault in enumerate(self.plan):
            if number not in without:
                self._schedule(number, fault)
        world.at(chaos_s, self.stop)

    def _schedule(self, number: int, fault: Fault) -> None:
        acts: dict[str, Callable[[int, Fault, Host], None]] = {
            "crash": self._crash, "cut": self._cut, "pause": self._pause,
            "reset": self._reset, "jump": self._jump, "skew": self._jump,
            "drift": self._drift, "slow": self._slow, "hidden": self._hide,
            "lie": self._lie, "clone": self._clone, "rollback": self._roll_back,
        }  # fmt: skip

        def strike() -> None:
            if self.done:
                return
            self.world.trace.count(fault.kind)
            names = [host.name for host in self.world.hosts]
            self.world.trace.add(self.world.now_s, "-", f"FAULT {fault.words(names)}")
            acts[fault.kind](number, fault, self.world.hosts[fault.host])

        if fault.at_s:
            self.world.at(fault.at_s, strike)
        else:
            strike()

    def stop(self) -> None:
        """Stop for good: cuts heal, all boot and wake up, no message is lost."""
        if self.done:
            return
        self.done = True
        self.world.trace.add(self.world.now_s, "-", "HEALS")
        self.world.air.noise = Faults()
        for number in list(self.world.air.cuts):
            self._heal(number)
        for host in self.world.hosts:
            host.cut_effects = None
            host.disk.fuse.arm(0)
            host.busy_s = min(host.busy_s, self.world.now_s)
            self.world.exchange.resume(host)
            if not host.retired:
                self.world.boot(host)

    def _crash(self, _number: int, fault: Fault, host: "Host") -> None:
        """Cut the power: now, at a use of the disk, or among the effects of a step."""
        host.down_s = fault.for_s
        if not fault.size:
            self.world.power_cut(host)
        elif fault.size > 0:
            host.disk.fuse.arm(int(fault.size))
        else:
            host.cut_effects = int(-fault.size) - 1
        boots = host.boots

        def anyway() -> None:
            if host.boots == boots and not self.done:
                self.world.power_cut(host)

        self.world.later(STORE_WAIT_S, anyway)

    def _cut(self, number: int, fault: Fault, _host: "Host") -> None:
        self.world.cut(number, frozenset(fault.others), int(fault.size))
        self.world.later(fault.for_s, lambda: self._heal(number))

    def _heal(self, number: int) -> None:
        self.world.air.cuts.pop(number, None)

    def _pause(self, _number: int, fault: Fault, host: "Host") -> None:
        host.busy_s = max(host.busy_s, self.world.now_s + fault.for_s)

    def _reset(self, _number: int, fault: Fault, host: "Host") -> None:
        other = self.world.hosts[fault.others[1]]
        self.world.wires.reset(host, other)
        self.world.channels.reset(host, other)

    def _jump(self, _number: int, fault: Fault, host: "Host") -> None:
        host.clock.wrong_s += fault.size

    def _drift(self, _number: int, fault: Fault, host: "Host") -> None:
        host.clock.rate = 1.0 + fault.size

    def _slow(self, _number: int, fault: Fault, host: "Host") -> None:
        host.service_s = fault.size

    def _hide(self, _number: int, _fault: Fault, host: "Host") -> None:
        host.hidden = True

    def _lie(self, _number: int, fault: Fault, host: "Host") -> None:
        host.lies = int(fault.size)

    def _clone(self, _number: int, fault: Fault, host: "Host") -> None:
        twin = self.world.clone(host)
        if fault.for_s:
            self.world.later(fault.for_s, lambda: self.world.retire(twin))

    def _roll_back(self, _number: int, fault: Fault, host: "Host") -> None:
        image = host.disk.image()

        def strike() -> None:
            if not self.done and host.up:
                host.rolled_back = True
                self.world.trace.add(self.world.now_s, host.name, "rolls back")
                self.world.power_cut(host)
                host.disk = image

        self.world.later(fault.for_s, strike)
