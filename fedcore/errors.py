"""Every error this project raises on purpose.

FedError
├── ConfigError        the user asked for something impossible; raised at start-up
├── ProtocolError      a peer sent bytes or values that break the agreed rules
│   ├── StaleUpdateError   right form, too old: computed from a forgotten version
│   └── FactError          a fact of an order-free model that cannot be counted
├── PeerLostError      a peer did not answer in time, or hung up
├── QuorumError        too few peers are left to finish the round or open the shares
└── StorageError       the disk is full, damaged or not ours

Callers retry on ``PeerLostError``, drop the sender on ``ProtocolError``, abandon
the round on ``QuorumError``, and let the rest end the program.
"""


class FedError(Exception):
    """Base of all errors raised on purpose by this project."""


class ConfigError(FedError, ValueError):
    """The configuration cannot work. Raised before any training starts."""


class ProtocolError(FedError):
    """A peer broke the protocol. The message names the peer and the rule."""


class StaleUpdateError(ProtocolError):
    """An update was computed from a model version that is no longer kept."""


class FactError(ProtocolError):
    """A fact about an order-free model was refused; nothing changed.

    Attributes:
        kind: a stable word for programs and tests, such as ``"replayed"``.
        peer: who is to blame, fit to be shown.
        reason: a sentence for people.
    """

    def __init__(self, kind: str, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.kind, self.peer, self.reason = kind, peer, reason


class PeerLostError(FedError, ConnectionError):
    """A peer did not answer within its deadline, or closed the stream."""


class QuorumError(FedError):
    """Fewer peers remain than the round, or the secret sharing, needs."""


class StorageError(FedError, OSError):
    """A file could not be written or read back; the last good state is intact."""
