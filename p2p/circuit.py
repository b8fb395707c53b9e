"""Addresses that lead through a relay: ``<place>/p2p/<relay>/p2p-circuit/p2p/<peer>``.

Only what their text says; whether that is sound is for ``p2p.members.places``, and
``p2p.libp2p.hops`` before one is dialled.
"""

from fedcore.names import PeerId

CIRCUIT = "/p2p-circuit"
PEER = "/p2p/"


def is_circuit(address: str) -> bool:
    """Return whether ``address`` leads through a relay."""
    return CIRCUIT in address


def circuit_to(peer: PeerId, relay: str) -> str:
    """Return the address of ``peer`` through a relay at the address ``relay``."""
    return f"{relay}{CIRCUIT}{PEER}{peer}"


def parted(address: str) -> tuple[str, str] | None:
    """Return the relay's address and the peer; None if this is no circuit to a peer."""
    relay, found, peer = address.partition(CIRCUIT + PEER)
    return (relay, peer) if found else None


def peer_in(address: str) -> PeerId | None:
    """Return whose address it is, the last peer that it names."""
    _, found, rest = address.rpartition(PEER)
    return rest if found else None
