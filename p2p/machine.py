"""Protocol code without sockets, clocks, threads or disks: events in, effects out.

A ``Machine`` is told what happened and answers with what shall be done. Production
executes the effects with threads and sockets (``p2p.driver``); simulations execute
them under a seeded scheduler with a virtual clock and network. Both run the very same
object, so a fault that a simulation finds is a fault of the program.

Who spoke is known: a driver passes on only bytes whose sender the transport has
authenticated. What was said is not: a machine checks every byte before it uses it, and
raises ``ProtocolError`` for what breaks the rules; the driver then refuses the request
(or drops the message) and names the peer, and the machine is as it was before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedcore.names import PeerId

Ticket = int  # names one request; unique among those of one machine


@dataclass(frozen=True, slots=True)
class Up:
    """``peer`` can be told and asked from now on. Repeats are harmless."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Down:
    """``peer`` cannot be reached any more, for the reason ``why``."""

    peer: PeerId
    why: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """``peer`` said ``body`` on ``topic`` and expects no answer."""

    peer: PeerId
    topic: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """``peer`` wants an answer: one ``Answer`` or ``Refuse`` with this ``ticket``."""

    peer: PeerId
    topic: str
    body: bytes
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Answered:
    """``peer`` answered the ``Ask`` with this ``ticket``."""

    peer: PeerId
    ticket: Ticket
    body: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The ``Ask`` with this ``ticket`` has no answer.

    Attributes:
        lost: the peer is gone or too late, and asking again may help; otherwise it
            refused, and ``why`` is what it said.
    """

    peer: PeerId
    ticket: Ticket
    lost: bool
    why: str


@dataclass(frozen=True, slots=True)
class Woken:
    """The time of the last ``Wake`` has come; also the first event after a start."""


Event = Up | Down | Told | Asked | Answered | Failed | Woken


@dataclass(frozen=True, slots=True)
class Tell:
    """Say ``body``; it may be lost, repeated or overtaken, and nobody will know."""

    peer: PeerId
    topic: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask; exactly one ``Answered`` or ``Failed`` follows, unless we crash.

    Attributes:
        timeout_s: longest wait, in seconds.
        bulk: the answer is large: take the fast path for data if there is one.
    """

    peer: PeerId
    topic: str
    body: bytes
    ticket: Ticket
    timeout_s: float
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the ``Asked`` with this ``ticket``."""

    ticket: Ticket
    body: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse the ``Asked`` with this ``ticket``, and say why."""

    ticket: Ticket
    why: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Send ``Woken`` at ``at_s``. A machine has one alarm: the newest replaces it."""

    at_s: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """End all connections with ``peer``."""

    peer: PeerId
    why: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Tell people. ``kind`` is a stable word for programs, such as ``"fork"``."""

    kind: str
    words: str
    peer: PeerId | None = None


Effect = Tell | Ask | Answer | Refuse | Wake | HangUp | Note


class Machine(Protocol):
    """One protocol of a peer. Mutable, used by one thread at a time."""

    @property
    def topics(self) -> Collection[str]:
        """The topics whose ``Told`` and ``Asked`` come here, such as "/state/1"."""
        ...

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Take ``event``, at ``now_s`` seconds of a clock that never goes back.

        What must survive a crash has been stored when this returns: effects are
        carried out afterwards.

        Raises:
            ProtocolError: a peer broke the rules; nothing changed.
            StorageError: its disk takes nothing; it can be used further.
        """
        ...
