"""A way to ask a router for a port, and what it gives."""

import ipaddress
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port of the router that leads to one of ours.

    Attributes:
        host: the router's outer IP address.
        port: its TCP port there.
        inner_port: our TCP port.
        life_s: how long it lasts unless it is renewed, in seconds; 0 = for ever.
    """

    host: str
    port: int
    inner_port: int
    life_s: int

    @property
    def is_public(self) -> bool:
        """Whether the world can see it; if not, there is another NAT behind."""
        return ipaddress.ip_address(self.host).is_global


class Way(Protocol):
    """NAT-PMP, UPnP. Every call is bounded in time, about ten seconds at most."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def open(self, port: int, life_s: int, wanted: int) -> Mapping:
        """Map TCP ``port``, at the outer port ``wanted`` if that is free.

        Asking again for the same port renews it.

        Raises:
            PeerLostError: there is no such router, or it does not answer.
            ProtocolError: it answers nonsense, or refuses.
        """
        ...

    def close(self, mapping: Mapping) -> None:
        """Give ``mapping`` back.

        Raises:
            PeerLostError: the router does not answer.
            ProtocolError: it answers nonsense, or refuses.
        """
        ...
