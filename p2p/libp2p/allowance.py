"""What a relay gives at most, and what it has given."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives at most.

    Attributes:
        reservations: peers that can be reached through this relay.
        reservations_per_ip: of them, those that come from one address.
        circuits: circuits at a time.
        circuits_per_peer: of them, those of one peer, whichever end it is.
        requests_per_peer: requests of one peer that wait for an answer.
        circuit_bytes: bytes of one circuit, both directions together.
        circuit_s: longest life of a circuit, in seconds.
        reservation_s: life of a reservation that is not refreshed, in seconds.
    """

    reservations: int = 256
    reservations_per_ip: int = 64
    circuits: int = 512
    circuits_per_peer: int = 32
    requests_per_peer: int = 8
    circuit_bytes: int = 1 << 28
    circuit_s: int = 3600
    reservation_s: int = 1800


@dataclass(slots=True)
class RelayCounts:
    """What a relay has done since its start; ``refused`` counts by reason."""

    circuits: int = 0
    carried_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
