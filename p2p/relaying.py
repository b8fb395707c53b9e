"""What a relay tells about its other services, ``/relay/1``: where its whoami listens.

The question is one byte, the answer a list of addresses. ``Desk`` is a relay's side,
``Guests`` a peer's.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader, varint
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Ticket,
)
from p2p.nat.addresses import Address, encode_address, read_address, seen_from

TOPIC = "/relay/1"
WANTED = b"\x01"  # the whole question
MOST = 4
ASK_S = 10.0
AGAIN_S = 5.0


def encode_services(addresses: Sequence[Address]) -> bytes:
    """Return the answer of a relay whose whoami listens at ``addresses``."""
    return varint(len(addresses)) + b"".join(map(encode_address, addresses))


def read_services(data: bytes) -> tuple[Address, ...]:
    """Return the addresses in ``data``, at most 4.

    Raises:
        ProtocolError: ``data`` is not what ``encode_services`` writes.
    """
    reader = Reader(data)
    found = tuple(read_address(reader) for _ in range(reader.varint(MOST)))
    if encode_services(found) != data:
        raise ProtocolError("not the services of a relay, as one writes them")
    return found


@dataclass
class Desk:
    """A relay's side: a ``Machine``.

    Attributes:
        services: where whoami services listen, at most 4; may change.
    """

    services: tuple[Address, ...]
    topics: Collection[str] = (TOPIC,)

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Answer questions."""
        if not isinstance(event, Asked):
            return ()
        if event.body != WANTED:
            raise ProtocolError(f"{event.peer} asks a relay in unknown words")
        return [Answer(event.ticket, encode_services(self.services))]


@dataclass
class Guests:
    """A peer's side: asks every relay until it has answered.

    Attributes:
        found: by relay, where its services listen.
        changed: called when other services are known than before.
        hosts: by relay, the IP address at which we have reached it.
    """

    found: dict[PeerId, tuple[Address, ...]] = field(default_factory=dict)
    changed: Callable[[], object] = lambda: None
    hosts: Mapping[PeerId, str] = field(default_factory=dict)
    topics: Collection[str] = ()
    _asked_s: dict[PeerId, float] = field(default_factory=dict)
    _tickets: "itertools.count[Ticket]" = field(default_factory=itertools.count)

    def look(self, now_s: float, relays: Collection[PeerId]) -> list[Effect]:
        """Ask those of ``relays``, all of them here, that have not answered yet."""
        out: list[Effect] = []
        for relay in relays:
            since_s = now_s - self._asked_s.get(relay, -AGAIN_S)
            if relay not in self.found and since_s >= AGAIN_S:
                self._asked_s[relay] = now_s
                out.append(Ask(relay, TOPIC, WANTED, next(self._tickets), ASK_S))
        return out

    def again(self, relay: PeerId) -> None:
        """Ask ``relay`` at the next look, unless it has answered."""
        self._asked_s.pop(relay, None)

    def services(self) -> tuple[Address, ...]:
        """Return the services of all relays that are here, sorted; from any thread."""
        found = {
            seen_from(address, self.hosts.get(relay))
            for relay, addresses in list(self.found.items())
            for address in addresses
        }
        return tuple(sorted(found))

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Take answers; a relay that is gone has no services."""
        before = self.services()
        match event:
            case Answered(peer, _, body):
                self.found[peer] = read_services(body)
            case Down(peer):
                self.found.pop(peer, None)
                self._asked_s.pop(peer, None)
        if self.services() != before:
            self.changed()
        return ()
