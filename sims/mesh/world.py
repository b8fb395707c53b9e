"""A world of machines under a seeded scheduler: one heap of things to come, no thread.

Everything random comes from the seed, by name. ``run`` takes the next thing from the
heap until the time is over, a predicate holds, or something is broken.
"""

import heapq
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from typing import Any

from fedcore.names import PeerId
from fedcore.seeds import seed_of
from p2p.identity.keys import Key
from p2p.machine import Machine, Note, Woken
from p2p.nat.effects import Closed
from sims.mesh.air import Air
from sims.mesh.dialling import Dialling
from sims.mesh.exchange import Do, Exchange
from sims.mesh.faults import Faults
from sims.mesh.host import Host
from sims.mesh.liar import Liar, honest
from sims.mesh.nemesis import Nemesis
from sims.mesh.place import Place, PowerCut
from sims.mesh.trace import Trace
from sims.mesh.wires import Wires

Build = Callable[[Place], Machine]
Check = Callable[["World", Host], str | None]
Look = Callable[["World"], str | None]
BOOT_S = 2.0  # hosts start within this time
QUIET_S = 1.0  # between two looks at everything
ANSWER_S = 180.0  # longest time that a question may wait


@dataclass(frozen=True, slots=True)
class Violation:
    """What is broken, when, and where."""

    what: str
    at_s: float
    who: str


class World:
    """Hosts, wires and what happens to them.

    Args:
        seed: fixes everything.
        build: makes the machine of a host, at its first boot and at each later one.
        nodes: number of hosts at the start, >= 1.
        faults: what goes wrong, and how often.
        chaos_s: true seconds until everything that goes wrong stops for good.
        without: numbers of the planned faults to leave out.

    Attributes:
        now_s: true seconds since the start.
        hosts: all hosts; clones come last.
        trace: what happened.
        violation: the first thing found broken; None so far.
        checks: called after each step of a host; they return what is broken.
        looks: called each second; they return what is broken.
        air: what is between the hosts.
        wires: their connections; ``channels`` are faster ones beside them.
        wanted: whether two hosts shall look for each other; all do.
        dials: a host that asks another is connected with it first, if that can be.
        carry_out: does the effects that are not of ``p2p.machine``.
        noted: hears of each ``Note``.
        booted: hears of each host that boots.
    """

    def __init__(
        self,
        seed: int,
        build: Build,
        *,
        nodes: int = 5,
        faults: Faults | None = None,
        chaos_s: float = 60.0,
        without: Collection[int] = (),
    ) -> None:
        self.seed, self.build, self.trace = seed, build, Trace()
        self.now_s, self.steps = 0.0, 0
        self.violation: Violation | None = None
        self.checks: list[Check] = []
        self.looks: list[Look] = []
        self.wanted: Callable[[Host, Host], bool] = lambda _a, _b: True
        self.dials = False
        self.carry_out: Callable[[Host, object], None] = self._unknown
        self.noted: Callable[[Host, Note], None] = lambda _host, _note: None
        self.booted: Callable[[Host], None] = lambda _host: None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counted = 0
        self.hosts = [self._host(i, i) for i in range(nodes)]
        self.peers: list[PeerId] = [host.peer for host in self.hosts]
        self._names = {host.peer: host.name for host in self.hosts}
        noise = faults or Faults()
        self.air, self.exchange = Air(seed, noise, self.trace), Exchange(self)
        self.dialling = Dialling(self)
        self.wires = Wires(self, left=self.dialling.plan)
        self.channels = Wires(self, Closed)
        self.nemesis = Nemesis(self, noise, chaos_s, frozenset(without))
        for host in self.hosts:
            self._boot_in(self.dice("start", host.index).uniform(0, BOOT_S), host)
        self.later(QUIET_S, self._look)

    def dice(self, *path: str | int) -> random.Random:
        """Return the dice named by ``path``."""
        return random.Random(seed_of("mesh", self.seed, *path))

    def name(self, peer: PeerId | None) -> str:
        """Return the letter of ``peer``."""
        return self._names.get(peer or "", "?")

    @property
    def honest(self) -> list[Host]:
        """The hosts with power that keep the rules, clones included."""
        return [host for host in self.hosts if host.up and host.honest]

    def _host(self, index: int, original: int) -> Host:
        key = _key(self.seed, original)
        dice = self.dice("line", original)
        letter = "abcdefghijklmnopqrstuvwxyz"[original % 26] + f"{original // 26 or ''}"
        name = letter + "'" * (index != original)
        host = Host(index, name, original, key, key.peer)
        host.bytes_per_s = 10 ** dice.uniform(5.5, 8.0)
        return host

    def later(self, wait_s: float, do: Callable[[], None]) -> None:
        """Do something in ``wait_s`` true seconds."""
        self.at(self.now_s + wait_s, do)

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        """Do something at the true time ``at_s``, or at once if that is over."""
        self._counted += 1
        heapq.heappush(self._heap, (max(at_s, self.now_s), self._counted, do))

    def run(
        self,
        until_s: float = inf,
        until: Callable[["World"], bool] | None = None,
    ) -> bool:
        """Run until a true time, a predicate (asked each second) or a violation.

        Returns:
            Whether all is well and ``until``, if given, holds at the end.
        """
        ask_s = self.now_s
        while self.violation is None and self._heap[0][0] <= until_s:
            if until is not None and self.now_s >= ask_s:
                if until(self):
                    return True
                ask_s = self.now_s + QUIET_S
            self.now_s, _, do = heapq.heappop(self._heap)
            do()
        if self.violation is None and isfinite(until_s):
            self.now_s = until_s
        return self.violation is None and (until is None or until(self))

    def violate(self, what: str, who: Host | None = None) -> None:
        """Say that something is broken. The first one counts; liars do not."""
        if self.violation is None and (who is None or who.honest):
            name = who.name if who else "all"
            self.trace.add(self.now_s, name, f"BROKEN {what}")
            self.violation = Violation(what, self.now_s, name)

    def after_step(self, host: Host) -> None:
        """Check ``host``, which has just changed."""
        for check in self.checks:
            if host.up and (broken := check(self, host)):
                self.violate(broken, host)

    def _look(self) -> None:
        for look in self.looks:
            if broken := look(self):
                self.violate(broken)
        for host in self.hosts:
            self._look_at(host)
        self.later(QUIET_S, self._look)

    def _look_at(self, host: Host) -> None:
        host.steps = 0
        oldest = next(iter(host.asked.values()), None)
        paused = host.busy_s > self.now_s or host.inbox
        if oldest and self.now_s - oldest.at_s > ANSWER_S and not paused:
            self.violate(f"has not answered {oldest.host.name}", host)

    def boot(self, host: Host) -> None:
        """Start ``host``, if it has no power, with what its disk holds."""
        if host.up or host.retired:
            return
        host.boots += 1
        dice = self.dice("boot", host.index, host.boots)
        host.clock.zero_s = dice.uniform(0, 1e6) - host.clock.rate * self.now_s
        host.busy_s = self.now_s
        self.trace.add(self.now_s, host.name, f"boots ({host.boots})")
        place = host.place(self.peers, dice, lambda: self.now_s)
        try:
            with host.disk.fuse:
                machine = self.build(place)
        except PowerCut:
            host.lose_power()
            self._boot_in(1.0, host)
            return
        if host.lies:
            machine = Liar(machine, place, host.lies, self.trace)
        host.machine = machine
        self.exchange.post(host, Woken())
        self.booted(host)
        self.dialling.all(host)

    def _boot_in(self, wait_s: float, host: Host) -> None:
        self.later(wait_s, lambda: self.boot(host))

    def power_cut(self, host: Host) -> None:
        """Let ``host`` lose power, and boot again in ``host.down_s``."""
        if host.up:
            self.trace.count("power cut")
            self.trace.add(self.now_s, host.name, "loses power")
            host.lose_power()
            self.wires.power_cut(host)
            self.channels.power_cut(host)
            self._boot_in(host.down_s, host)

    def retire(self, host: Host) -> None:
        """Take ``host`` out of the world."""
        host.retired = True
        self.power_cut(host)

    def cut(self, number: int, side: frozenset[int], way: int) -> None:
        """Let nothing through between some hosts and the rest.

        Args:
            number: names this cut.
            side: numbers of the hosts on one side.
            way: 0 both ways; 1 nothing leaves the side; -1 nothing comes in.
        """
        self.air.cuts[number] = (side, way)
        self.wires.notice(number, side)
        self.channels.notice(number, side)

    def send(
        self,
        host: Host,
        peer: PeerId,
        size_bytes: int,
        arrive: Callable[[Host], None],
        *,
        once: bool = False,
    ) -> bool:
        """Send on the channel to ``peer``, or else on the wire; see ``Wires.send``."""
        return self.channels.send(
            host, peer, size_bytes, arrive, once=once
        ) or self.wires.send(host, peer, size_bytes, arrive, once=once)

    def clone(self, host: Host) -> Host:
        """Return a new host with the key and the disk of ``host``; it boots soon."""
        twin = self._host(len(self.hosts), host.original)
        twin.disk = host.disk.image()
        twin.cloned = self.hosts[host.original].cloned = True
        twin.lies, twin.hidden, twin.crooked = host.lies, host.hidden, host.crooked
        self.hosts.append(twin)
        self._boot_in(0.5, twin)
        return twin

    def call(self, host: Host, act: Do) -> bool:
        """Let a user do something with a machine.

        Args:
            host: whose machine.
            act: given the machine and its time; returns effects.

        Returns:
            Whether it came to an end: the user then counts on what it did.
        """
        return self.exchange.do(host, lambda m, now_s: act(honest(m), now_s))

    def post(self, host: Host, event: Any) -> None:
        """Let the machine of ``host`` know of ``event``."""
        self.exchange.post(host, event)

    def _unknown(self, host: Host, effect: object) -> None:
        self.violate(f"has an effect that nobody knows: {effect!r}"[:200], host)


@lru_cache(maxsize=4096)
def _key(seed: int, index: int) -> Key:
    return Key(random.Random(seed_of("mesh key", seed, index)).randbytes(32))
