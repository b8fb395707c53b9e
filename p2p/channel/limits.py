"""What one channel may cost us: every bound in one place."""

import struct
from dataclasses import dataclass

from fedcore.errors import ConfigError, ProtocolError

PART_BYTES = 1 << 20  # longest part of a body that any peer may send at once
SMALL_BYTES = 1 << 16  # bodies up to this overtake larger ones
MOST = 1 << 40  # of anything a peer announces
WINDOW_MIN_BYTES = 1 << 12  # least credit a peer may count on
_GREETING = struct.Struct("<QQQQ")
GREETING_BYTES = _GREETING.size


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a peer accepts, said in its first frame.

    Attributes:
        asks: asks that it has not answered, at most.
        ask_bytes: longest body of an ask or a tell.
        held_bytes: bodies of asks and tells that it has not dealt with, together.
        credit_bytes: what we may send before it grants more.
    """

    asks: int
    ask_bytes: int
    held_bytes: int
    credit_bytes: int

    def encoded(self) -> bytes:
        """Return the bytes that ``read_greeting`` reads."""
        sizes = (self.ask_bytes, self.held_bytes, self.credit_bytes)
        return _GREETING.pack(self.asks, *sizes)


def read_greeting(data: bytes) -> Greeting:
    """Return the greeting in ``data``.

    Raises:
        ProtocolError: its numbers are out of range, or do not go together.
    """
    if len(data) != GREETING_BYTES:
        raise ProtocolError(f"a greeting of {len(data)} bytes, not {GREETING_BYTES}")
    said = Greeting(*_GREETING.unpack(data))
    wrong = _fault_of(said.asks, said.ask_bytes, said.held_bytes)
    if wrong or not WINDOW_MIN_BYTES <= said.credit_bytes <= MOST:
        raise ProtocolError(f"a greeting with {wrong or 'a credit out of range'}")
    return said


def _fault_of(asks: int, ask_bytes: int, held_bytes: int) -> str | None:
    if not (0 < asks <= MOST and 0 < ask_bytes <= MOST and held_bytes <= MOST):
        return "a limit out of range"
    if held_bytes < max(8 * ask_bytes, 1 << 16):
        return "held_bytes below 8 times ask_bytes, or below 64 KiB"
    return None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one channel. What a peer announces beyond them ends the channel.

    As they are, a hostile peer can make us hold 8 MiB that we did not ask for,
    and 16 MiB of answers that it does not fetch.

    Attributes:
        part_bytes: bodies are sent in parts of this size, 1 KiB to 1 MiB; a small
            message waits for one part at most.
        asks: the peer's asks that wait for our answer, at most.
        ask_bytes: longest body of an ask or a tell of the peer.
        answer_bytes: longest answer for which nobody gave a buffer.
        held_bytes: the peer's asks and tells that we have not dealt with, together.
        arriving_bytes: answers without a buffer that are on their way, together.
        backlog_bytes: our answers that the peer has not fetched; with more, its
            further asks wait. Counted apart for asks whose answers may be large.
        waiting: our asks and tells that wait for the peer, at most.
        waiting_bytes: bodies of those, together.
        window_bytes: what the peer may send before we grant more: at least the
            bandwidth times the round trip, for full speed.
        wear_bytes: what is sent under one set of keys; then the channel ends.
        handshake_s: longest handshake.
        ping_s: time between two pings.
        silence_s: a peer silent for so long is lost.
    """

    part_bytes: int = 1 << 18
    asks: int = 1 << 10
    ask_bytes: int = 1 << 20
    answer_bytes: int = 1 << 23
    held_bytes: int = 1 << 23
    arriving_bytes: int = 1 << 24
    backlog_bytes: int = 1 << 23
    waiting: int = 1 << 13
    waiting_bytes: int = 1 << 26
    window_bytes: int = 1 << 24
    wear_bytes: int = 1 << 38  # below what AES-GCM allows: 2^24.5 records
    handshake_s: float = 10.0
    ping_s: float = 5.0
    silence_s: float = 20.0

    def __post_init__(self) -> None:
        if not 1 << 10 <= self.part_bytes <= PART_BYTES:
            raise ConfigError(f"part_bytes is {self.part_bytes}; give 1024 to 1048576")
        if not WINDOW_MIN_BYTES <= self.window_bytes <= MOST:
            raise ConfigError(f"window_bytes is {self.window_bytes}; give 4096 or more")
        wrong = _fault_of(self.asks, self.ask_bytes, self.held_bytes)
        if wrong:
            raise ConfigError(f"{wrong}; give larger held_bytes or smaller ask_bytes")
        if not 0 < self.ping_s < self.silence_s:
            raise ConfigError("ping_s must be above 0 and below silence_s")

    def greeting(self, credit_bytes: int) -> Greeting:
        """Return what the peer is told of these limits."""
        return Greeting(self.asks, self.ask_bytes, self.held_bytes, credit_bytes)
