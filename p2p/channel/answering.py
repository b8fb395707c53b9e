"""The peer's asks and tells: taken within the limits, answered once."""

from collections import deque
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from p2p.channel.arriving import Arriving, fresh
from p2p.channel.asking import BODY_COST
from p2p.channel.frames import LARGE, Head, Kind, frame, words_bytes
from p2p.channel.limits import Limits
from p2p.channel.outbox import Outbox, Sending


@dataclass(frozen=True, slots=True)
class Heard:
    """The peer said ``body`` on ``topic``. ``ticket`` is None if it was a tell."""

    topic: str
    body: bytes
    ticket: int | None

    @property
    def cost(self) -> int:
        """What this counts as until it is dealt with."""
        return len(self.body) + BODY_COST


@dataclass(slots=True)
class _Theirs:
    """One ask of the peer that is not answered."""

    arriving: Arriving
    cost: int
    large: bool  # its answer may be
    cancelled: bool = False
    answered: bool = False


class Answering:
    """What the peer asks and tells on one channel."""

    def __init__(self, outbox: Outbox, limits: Limits) -> None:
        self._outbox, self._limits = outbox, limits
        self._open: dict[int, _Theirs] = {}
        self._tells: dict[int, Arriving] = {}
        self._held = 0
        self._told = 0  # cost of tells dealt with, not yet reported
        # Bytes of answers that the peer has not fetched, and asks that wait meanwhile:
        # ordinary ones and tells, and those whose answers may be large.
        self._backlog = [0, 0]
        self._heard: tuple[deque[Heard], deque[Heard]] = (deque(), deque())

    def begin(self, head: Head, topic: str) -> Arriving:
        """Begin to take an ask or a tell.

        Raises:
            ProtocolError: it is beyond the limits that the peer was told.
        """
        ticket, total = head.ticket, head.number
        cost = total + BODY_COST
        asks = head.kind is Kind.ASK
        if ticket in (self._open if asks else self._tells):
            raise ProtocolError(f"{head.kind.name} {ticket} twice")
        if total > self._limits.ask_bytes:
            raise ProtocolError(f"a body of {total} bytes")
        if self._held + cost > self._limits.held_bytes:
            raise ProtocolError("more bodies at once than was agreed")
        if asks and len(self._open) >= self._limits.asks:
            raise ProtocolError(f"more than {self._limits.asks} asks at once")
        self._held += cost
        arriving = fresh(total, topic)
        if asks:
            self._open[ticket] = _Theirs(arriving, cost, head.of == LARGE)
        else:
            self._tells[ticket] = arriving
        return arriving

    def part(self, kind: Kind, ticket: int) -> Arriving:
        """Return the ask or tell that goes on."""
        if kind is Kind.ASK and ticket in self._open:
            return self._open[ticket].arriving
        if kind is Kind.TELL and ticket in self._tells:
            return self._tells[ticket]
        raise ProtocolError(f"a part of {kind.name} {ticket}, which is not open")

    def arrived(self, kind: Kind, ticket: int) -> None:
        """Take it that all bytes of an ask or a tell are here."""
        arriving = self.part(kind, ticket)
        body = bytes(arriving.target or b"")
        arriving.target = None
        if kind is Kind.TELL:
            del self._tells[ticket]
        large = kind is Kind.ASK and self._open[ticket].large
        self._heard[large].append(
            Heard(arriving.topic, body, ticket if kind is Kind.ASK else None)
        )

    def heard(self) -> Heard | None:
        """Return what is to be dealt with next, while the peer fetches its answers."""
        for waiting, backlog in zip(self._heard, self._backlog, strict=True):
            while waiting and backlog <= self._limits.backlog_bytes:
                heard = waiting.popleft()
                if heard.ticket is None or not self._open[heard.ticket].cancelled:
                    return heard
                self.refuse(heard.ticket, Kind.FAIL, "cancelled")
        return None

    def answer(self, ticket: int, body: memoryview) -> None:
        """Answer ``ticket``."""
        theirs = self._open[ticket]
        if theirs.cancelled:
            self.refuse(ticket, Kind.FAIL, "cancelled")
            return
        theirs.answered = True
        self._backlog[theirs.large] += len(body)
        self._outbox.put(Sending(Kind.ANSWER, ticket, b"", body))

    def refuse(self, ticket: int, kind: Kind, why: str) -> None:
        """Refuse ``ticket``; ``kind`` is REFUSE or FAIL."""
        self._outbox.control.append(frame(kind, ticket, 0, words_bytes(why)))
        self._close(ticket)

    def sent(self, body: Sending) -> None:
        """Take it that all of ``body`` was handed over for sending."""
        if body.kind is Kind.ANSWER:
            self._backlog[self._open[body.ticket].large] -= len(body.body)
            self._close(body.ticket)

    def dealt(self, heard: Heard) -> None:
        """Take it that a tell needs no memory any more."""
        self._held -= heard.cost
        self._told += heard.cost

    def report(self) -> None:
        """Let the peer tell more, when much has been dealt with."""
        if self._told >= self._limits.held_bytes // 16:
            self._outbox.control.append(frame(Kind.TOLD, 0, self._told))
            self._told = 0

    def cancel(self, ticket: int) -> None:
        """Stop work on ``ticket``; nothing if it has been answered already."""
        theirs = self._open.get(ticket)
        if theirs is None:
            return
        if theirs.answered:
            dropped = self._outbox.drop(Kind.ANSWER, ticket)
            self._backlog[theirs.large] -= len(dropped.body) if dropped else 0
            self.refuse(ticket, Kind.FAIL, "cancelled")
        elif theirs.arriving.target is not None:  # the rest of it will not come
            self.refuse(ticket, Kind.FAIL, "cancelled")
        else:
            theirs.cancelled = True

    def _close(self, ticket: int) -> None:
        self._held -= self._open.pop(ticket).cost
