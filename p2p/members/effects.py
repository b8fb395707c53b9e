"""What the door decides. These are notes, so that a driver may just show them."""

from dataclasses import dataclass
from typing import Literal

from p2p.identity.openings import Opening
from p2p.machine import Note

Reason = Literal[
    "network",  # it belongs to another one
    "version",  # no protocol in common
    "forged",  # a signature is wrong, or the bytes are not what we write
    "expired",  # its invite, by our clock
    "removed",  # it was evicted, or its invite was revoked
    "unlisted",  # it is not on our allow-list
    "too often",  # it tried many times in a minute
    "refused us",  # it does not want us
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Note):
    """``peer`` proved to us that it belongs, and we to it (kind ``"admitted"``).

    Attributes:
        opening: what it proved.
        boot: 8 random bytes of the start of its program.
        program: the version of its program.
    """

    opening: Opening
    boot: bytes
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedAway(Note):
    """``peer`` may use nothing but the door (kind ``"turned-away"``).

    Attributes:
        reason: a stable word; ``words`` say it to people, with the way out.
    """

    reason: Reason
