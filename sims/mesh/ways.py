"""Dialling and punching for machines that say themselves whom to connect with.

Every host has an address of its own; a hidden one can be reached only through a host
that it is connected to, which relays. Two that punch at one time open a channel, if
they are lucky; else through a relay, if both named one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fedcore.names import PeerId
from p2p.circuit import circuit_to, parted
from p2p.nat.addresses import Address, Candidate
from p2p.nat.effects import (
    Dial,
    Dialled,
    Here,
    NotDialled,
    NotOpened,
    Opened,
    Punch,
    UpBy,
)
from sims.mesh.host import Host
from sims.mesh.world import World

PUNCH_S = 10.0  # one that punches alone gives up
LUCK = 0.9  # of a punch; less when both are hidden
PORT, DATA_PORT = 4001, 4002


class Ways:
    """Carries out ``Dial`` and ``Punch`` in a world; give it to ``carry_out``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._punching: dict[bytes, tuple[Host, int, Punch]] = {}

    def __call__(self, host: Host, effect: object) -> None:
        """Carry out ``effect`` of the machine on ``host``."""
        match effect:
            case Dial():
                self._soon(host, 3.0, lambda: self._dial(host, effect))
            case Punch():
                self._punch(host, effect)
            case _:
                self.world.violate(f"nobody carries out {effect!r}"[:200], host)

    def here(self, host: Host) -> Here:
        """Return where ``host`` is."""
        address = Address(ip(host.index), DATA_PORT)
        return Here((Candidate("public", address),), ())

    def _soon(self, host: Host, most_s: float, do: Any) -> None:
        boots = host.boots

        def then() -> None:
            if host.up and host.boots == boots:
                do()

        dice = self.world.air.line(host, host).rng
        self.world.later(dice.uniform(0.02, most_s), then)

    # ---- control ----------------------------------------------------------------

    def _dial(self, host: Host, dial: Dial) -> None:
        for target, relay in self._leads(dial):
            if self._connects(host, target, relay):
                by = relay.peer if relay else None
                self.world.post(host, Dialled(dial.peer, dial.ticket, by))
                return
        failed = NotDialled(dial.peer, dial.ticket, "no address answers")
        self._soon(host, 5.0, lambda: self.world.post(host, failed))

    def _leads(self, dial: Dial) -> Iterator[tuple[Host, Host | None]]:
        """Yield where the addresses lead: to whom, and through whom."""
        for address in dial.addresses:
            place, rest = parted(address) or (address, "")
            first = self._at(place)
            if first is None:
                continue
            if not rest:
                yield first, None
                continue
            for target in self.world.hosts:
                if target.peer == dial.peer and self.world.wires.joined(first, target):
                    yield target, first

    def _at(self, place: str) -> Host | None:
        """Return the host at an address, clones after their originals included."""
        number, peer = place.split("/")[2].rpartition(".")[2], place.rpartition("/")[2]
        index = int(number) - 1
        if index >= len(self.world.hosts):
            return None
        host = self.world.hosts[index]
        return host if host.peer == peer else None

    def _connects(self, a: Host, b: Host, relay: Host | None) -> bool:
        """Connect ``a`` to ``b`` if that is possible; return whether they are."""
        wires, air = self.world.wires, self.world.air
        if a.peer == b.peer or not b.up or (b.hidden and relay is None):
            return False
        if relay is not None and not (relay.up and relay not in (a, b)):
            return False
        way = [a, b] if relay is None else [a, relay, b]
        if not all(map(air.meet, way[:-1], way[1:])) or not wires.free(a, b):
            return False
        old = wires.wire(a, b.peer)
        if old is None or not wires.joined(a, b) or (old.relay and relay is None):
            by = relay.peer if relay else None
            wires.connect(a, b, relay, (UpBy(b.peer, by), UpBy(a.peer, by)))
        return True

    # ---- channels ---------------------------------------------------------------

    def _punch(self, host: Host, punch: Punch) -> None:
        found = self._punching.pop(punch.token, None)
        if found is None:
            self._punching[punch.token] = (host, host.boots, punch)
            self.world.later(PUNCH_S, lambda: self._alone(punch.token))
            return
        other, boots, theirs = found
        both = other.up and other.boots == boots and theirs.peer == host.peer
        if not both or punch.peer != other.peer:
            self._failed(host, punch)
            return
        self._soon(host, 2.0, lambda: self._meet(host, punch, other, theirs))

    def _alone(self, token: bytes) -> None:
        host, boots, punch = self._punching.pop(token, (None, 0, None))
        if host is not None and punch is not None and host.boots == boots:
            self._failed(host, punch)

    def _failed(self, host: Host, punch: Punch) -> None:
        self.world.post(host, NotOpened(punch.peer, punch.ticket, "no luck"))

    def _meet(self, a: Host, mine: Punch, b: Host, theirs: Punch) -> None:
        luck = LUCK / 2 if a.hidden and b.hidden else LUCK
        dice = self.world.air.line(a, b).rng
        if dice.random() < luck and b.up and self.world.air.meet(a, b):
            self.world.trace.count("channels")
            events = [
                Opened(punch.peer, punch.ticket, "direct (punched)")
                for punch in (mine, theirs)
            ]
            self.world.channels.connect(a, b, None, (events[0], events[1]))
        else:
            self._failed(a, mine)
            self._failed(b, theirs)


def ip(index: int) -> str:
    """Return the address of a host."""
    return f"11.0.{index // 250}.{index % 250 + 1}"


def addresses(
    index: int, peers: Sequence[PeerId], peer: PeerId, *, relay: bool
) -> list[str]:
    """Return the multiaddrs of a peer: its own, or through the first host."""
    own = f"/ip4/{ip(index)}/tcp/{PORT}/p2p/{peer}"
    first = f"/ip4/{ip(0)}/tcp/{PORT}/p2p/{peers[0]}"
    return [own, circuit_to(peer, first)] if relay else [own]
