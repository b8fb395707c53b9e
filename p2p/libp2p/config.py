"""What a libp2p node is told at its start, and every limit that it keeps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2p.identity.keys import Key
from p2p.transport import MAX_BODY_BYTES

if TYPE_CHECKING:
    from p2p.libp2p.transport import Libp2pTransport

Part = Callable[["Libp2pTransport"], AbstractAsyncContextManager[object]]
"""Something that runs beside a transport, entered once that listens."""


@dataclass(frozen=True)
class Quotas:
    """What one peer, and all together, may take of us.

    Attributes:
        connections: connections at a time.
        opening: connections that have not proved who they are yet; one more ends the
            oldest of them.
        streams_per_peer: streams that one peer may have open to us.
        asks_per_peer: our own requests that are under way to one peer; others wait.
        waiting_per_peer: our own requests to one peer, under way or waiting.
        waiting_bytes_per_peer: bytes of them.
        handlers: requests of others that are answered at a time.
        held_bytes: bytes of requests that wait or are answered, of all peers.
        held_bytes_per_peer: of them, those of one peer.
        requests_per_s: requests of one peer a second, in the long run.
        burst: requests of one peer at once.
        patience_s: for so long, in seconds, is a peer that sends more slowed down;
            then it is dropped.
        banned_s: for so long, in seconds, is a dropped peer not let in again.
    """

    connections: int = 512
    opening: int = 128
    streams_per_peer: int = 64
    asks_per_peer: int = 16
    waiting_per_peer: int = 1024
    waiting_bytes_per_peer: int = 32 * MAX_BODY_BYTES
    handlers: int = 256
    held_bytes: int = 12 * MAX_BODY_BYTES
    held_bytes_per_peer: int = 4 * MAX_BODY_BYTES
    requests_per_s: float = 1000.0
    burst: int = 2000
    patience_s: float = 5.0
    banned_s: float = 60.0


@dataclass(frozen=True)
class Libp2pConfig:
    """A node.

    Attributes:
        key: who we are.
        listen: multiaddrs to listen on, TCP or WebSocket, such as
            "/ip4/192.168.1.7/tcp/4001" or "/ip6/::/tcp/4001/ws"; port 0 takes any.
            A wildcard is announced as the addresses that the machine has.
        parts: what runs beside the transport.
        tls: also offer libp2p's TLS, after Noise.
        beat_s: a peer that was not heard for so long, in seconds, is asked whether it
            is there; after three times as long it is given up.
        stagger_s: head start of one address over the next when we dial, in seconds.
        dial_s: longest attempt at one address, in seconds.
        quotas: what others may take of us.
    """

    key: Key
    listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",)
    parts: Sequence[Part] = ()
    tls: bool = False
    beat_s: float = 5.0
    stagger_s: float = 0.25
    dial_s: float = 10.0
    quotas: Quotas = field(default_factory=Quotas)
