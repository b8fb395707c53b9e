"""What a blind relay gives at most, and what it has given."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quota:
    """What a relay gives at most.

    Attributes:
        circuits: joined pairs at a time.
        circuits_of_peer: of them, paid for by one peer's grant.
        waiting: connections that are silent, or whose other end is missing.
        knock_s: longest time to show a ticket.
        waiting_s: longest wait for the other end.
        circuit_bytes: through one circuit, both directions.
        circuit_s: longest life of a circuit.
        idle_s: longest life of a circuit that moves nothing.
        peer_bytes: through one peer's circuits within ``period_s``.
        period_s: after which ``peer_bytes`` is given anew.
    """

    circuits: int = 128
    circuits_of_peer: int = 16
    waiting: int = 256
    knock_s: float = 3.0
    waiting_s: float = 15.0
    circuit_bytes: int = 1 << 36
    circuit_s: float = 86_400.0
    idle_s: float = 300.0
    peer_bytes: int = 1 << 38
    period_s: float = 86_400.0


@dataclass
class Tally:
    """What a relay has done. ``ended`` and ``refused`` count by reason."""

    opened: int = 0
    circuits: int = 0
    waiting: int = 0
    bytes: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
