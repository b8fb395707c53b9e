"""Connections between hosts, that come, break and half break.

A message rides on one connection; it may vanish, come twice or be overtaken, but it
comes from whom it says. What breaks is noticed by each end at its own time, so one may
believe in a connection that the other has left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from fedcore.names import PeerId
from p2p.machine import Down, Up
from sims.mesh.host import Host

if TYPE_CHECKING:
    from sims.mesh.world import World

NOTICE_S = (2.0, 15.0)  # how soon an end notices that nothing comes any more


@dataclass(eq=False)
class Wire:
    """One connection.

    Attributes:
        ends: the two hosts.
        relay: the host that it leads through; None if it is direct.
        open: the hosts that still believe in it.
    """

    ends: tuple[Host, Host]
    relay: Host | None = None
    open: set[int] = field(default_factory=set)

    def other(self, host: Host) -> Host:
        """Return the end that ``host`` is not."""
        return self.ends[self.ends[0] is host]


class Wires:
    """All connections of one kind.

    Args:
        world: told of everything that happens.
        gone: makes the event of an end that notices that a connection broke.
        left: hears of two hosts whose connection one of them has left.
    """

    def __init__(
        self,
        world: "World",
        gone: Callable[[PeerId, str], Any] = Down,
        left: Callable[[Host, Host], None] = lambda _a, _b: None,
    ) -> None:
        self.world, self.gone, self.left = world, gone, left
        self._wires: dict[tuple[int, PeerId], Wire] = {}

    def wire(self, host: Host, peer: PeerId) -> Wire | None:
        """Return the connection that ``host`` has to ``peer``."""
        return self._wires.get((host.index, peer))

    def peers(self, host: Host) -> list[PeerId]:
        """Return whom ``host`` believes to be connected to, in order of connecting."""
        return [peer for index, peer in self._wires if index == host.index]

    def joined(self, a: Host, b: Host) -> bool:
        """Return whether ``a`` and ``b`` both believe in one connection of theirs."""
        wire = self.wire(a, b.peer)
        return wire is not None and wire is self.wire(b, a.peer)

    def free(self, a: Host, b: Host) -> bool:
        """Return whether ``a`` and ``b`` have no clone of the other to talk to."""
        return self._free(a, b) and self._free(b, a)

    def _free(self, a: Host, b: Host) -> bool:
        wire = self.wire(a, b.peer)
        if wire is None or len(wire.open) < 2 or b in wire.ends:
            return True
        return self.world.air.line(*wire.ends).rng.random() > 0.7  # a newer one wins

    def connect(
        self,
        a: Host,
        b: Host,
        relay: Host | None = None,
        said: tuple[Any, Any] | None = None,
    ) -> None:
        """Connect ``a`` and ``b``, in place of what connected them before.

        Args:
            a: one end.
            b: the other end.
            relay: the host that the connection leads through, if one does.
            said: the events that the ends hear; ``Up`` if None.
        """
        for host, other in ((a, b), (b, a)):
            old = self.wire(host, other.peer)
            if old is not None:
                silent = self.world.air.line(host, other).rng.random() < 0.5
                self._leave(old, host, "" if silent else "replaced by a newer one")
        wire = Wire((a, b), relay)
        self.world.trace.count("connections")
        events = said or (Up(b.peer), Up(a.peer))
        for (host, other), event in zip(((a, b), (b, a)), events, strict=True):
            wire.open.add(host.index)
            self._wires[host.index, other.peer] = wire
            self.world.post(host, event)

    def leave(self, host: Host, peer: PeerId, why: str) -> None:
        """Let ``host`` end its connection to ``peer``, if it has one."""
        wire = self.wire(host, peer)
        if wire is not None:
            self._leave(wire, host, why)

    def _leave(self, wire: Wire, host: Host, why: str) -> None:
        """Let ``host`` give ``wire`` up, and the other end hear of it."""
        if host.index not in wire.open:
            return
        wire.open.discard(host.index)
        other = wire.other(host)
        if self.wire(host, other.peer) is wire:
            del self._wires[host.index, other.peer]
        if host.up:
            self.world.exchange.lose(host, other.peer, why)
            if why:  # else it is replaced and nobody is told
                self.world.post(host, self.gone(other.peer, why))
        self._tell_end(wire, other, host)
        self.left(host, other)

    def _tell_end(self, wire: Wire, end: Host, left: Host) -> None:
        """Let ``end`` notice that ``left`` is gone: soon if word of it arrives."""
        line = self.world.air.line(left, end)
        killed = line.rng.random() < 0.5  # its system lives on and says goodbye
        soon = self.world.air.reaches(left, end) and (left.up or killed)
        wait_s = line.delay_s if soon else line.rng.uniform(*NOTICE_S)
        why = "closed by the other side" if soon else "nothing heard for long"
        self.world.later(wait_s, lambda: self._leave(wire, end, why))

    def power_cut(self, host: Host) -> None:
        """Let everybody notice, sooner or later, that ``host`` has no power."""
        for wire in list(self._wires.values()):
            if host.index in wire.open:
                self._leave(wire, host, "power cut")
            elif wire.relay is host:
                self._leave(wire, wire.ends[0], "the relay is gone")

    def reset(self, a: Host, b: Host) -> None:
        """Break the connection of ``a`` and ``b``; each notices soon."""
        if self.joined(a, b):
            self.world.trace.count("connection reset")
            self.leave(a, b.peer, "reset")

    def notice(self, number: int, side: frozenset[int]) -> None:
        """Let the ends of what the cut ``number`` broke notice it, unless it heals."""
        for a, b in combinations(self.world.hosts, 2):
            if (a.index in side) != (b.index in side):
                self._notice(a, b, number)
                self._notice(b, a, number)

    def _notice(self, host: Host, other: Host, number: int) -> None:
        wire = self.wire(host, other.peer)
        if wire is None or other not in wire.ends:
            return
        wait_s = self.world.air.line(host, other).rng.uniform(*NOTICE_S)

        def silent() -> None:
            if number in self.world.air.cuts:
                self._leave(wire, host, "nothing heard for long")

        self.world.later(wait_s, silent)

    def send(
        self,
        a: Host,
        peer: PeerId,
        size_bytes: int,
        arrive: Callable[[Host], None],
        *,
        once: bool = False,
    ) -> bool:
        """Send something on the connection of ``a`` to ``peer``, if there is one.

        Args:
            a: who sends.
            peer: to whom; a clone may be at the other end.
            size_bytes: how much.
            arrive: called with the host that it reaches, when it does; twice for a
                duplicate, never for a loss.
            once: it may be lost, but never comes twice.

        Returns:
            Whether there was a connection.
        """
        wire = self.wire(a, peer)
        if wire is None:
            return False
        b, world = wire.other(a), self.world
        for wait_s in world.air.waits_s(a, b, size_bytes, world.now_s, once=once):
            world.later(wait_s, lambda: self._arrive(wire, a, b, arrive))
        return True

    def _arrive(
        self, wire: Wire, a: Host, b: Host, arrive: Callable[[Host], None]
    ) -> None:
        if b.index not in wire.open or not b.up:
            return
        way = [a, b] if wire.relay is None else [a, wire.relay, b]
        if all(map(self.world.air.reaches, way[:-1], way[1:])):
            arrive(b)
        else:
            self.world.trace.count("stopped by a cut")
