"""Our asks and tells: what waits for the peer, what it owes us, what is too late."""

import heapq
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from fedcore.errors import FedError, PeerLostError, ProtocolError
from p2p.channel.arriving import Arriving, fresh
from p2p.channel.frames import Kind, frame
from p2p.channel.limits import SMALL_BYTES, Greeting, Limits
from p2p.channel.outbox import Outbox, Sending

T = TypeVar("T")
BODY_COST = 1 << 8  # what a body counts as besides its bytes


class Reply(Future[T]):
    """The future of an ask. It cannot be cancelled: it ends by its own deadline.

    Attributes:
        arrived: bytes of the answer that are in the buffer given with the ask, from
            its start; right also after a failure, so that one may go on from there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arrived = 0
        self.set_running_or_notify_cancel()


@dataclass(slots=True, eq=False)
class Asked:
    """One ask or tell of ours; a tell has no reply."""

    body: Sending
    reply: Reply[bytes] | Reply[int] | None
    deadline_s: float
    into: memoryview | None
    ticket: int = 0
    arriving: Arriving | None = None
    over: bool = False  # nobody waits any more; the ticket is still the peer's

    @property
    def cost(self) -> int:
        """What this counts as while the peer has not dealt with it."""
        return len(self.body.body) + BODY_COST

    def fail(self, error: FedError) -> None:
        """End without an answer."""
        if not self.over and self.reply is not None:
            if self.arriving is not None:
                self.reply.arrived = self.arriving.at
                self.arriving.target = None  # the buffer is the asker's again
            self.over = True
            self.reply.set_exception(error)


class Asking:
    """The asks and tells of one side of a channel."""

    def __init__(self, outbox: Outbox, limits: Limits) -> None:
        self.accepts: Greeting | None = None  # until the peer has said hello
        self._outbox, self._limits = outbox, limits
        self._small: deque[Asked] = deque()
        self._bulk: deque[Asked] = deque()
        self._tells: deque[Asked] = deque()
        self._waiting_bytes = 0
        self._open: dict[int, Asked] = {}  # asks that the peer knows, by ticket
        self._held = 0  # cost of those, and of tells it has not dealt with
        self._told = 0  # cost of those tells
        self._arriving = 0  # bytes of answers in buffers of our own
        self._tickets = 0
        self._deadlines: list[tuple[float, int, Asked]] = []
        self._order = 0

    def put(self, asked: Asked) -> bool:
        """Queue an ask or a tell; return whether there was room for it."""
        size = len(asked.body.body)
        queues = (self._small, self._bulk, self._tells)
        full = sum(map(len, queues)) >= self._limits.waiting
        if full or self._waiting_bytes + size > self._limits.waiting_bytes:
            asked.fail(PeerLostError("too much waits for this peer already"))
            return False
        if self.accepts is not None and size > self.accepts.ask_bytes:
            asked.fail(ProtocolError(f"the peer takes no body of {size} bytes"))
            return False
        self._waiting_bytes += size
        if asked.reply is None:
            self._tells.append(asked)
            return True
        (self._small if size <= SMALL_BYTES else self._bulk).append(asked)
        self._order += 1
        heapq.heappush(self._deadlines, (asked.deadline_s, self._order, asked))
        return True

    def admit(self) -> None:
        """Hand over to the outbox what the peer has room for.

        Some room is left to small asks, even if the peer deals with nothing else.
        """
        if self.accepts is None:
            return
        held, asks = self.accepts.held_bytes, self.accepts.asks
        self._admit(self._tells, held // 4 - self._told, asks)
        self._admit(self._bulk, held // 2 + self._told - self._held, asks - asks // 4)
        self._admit(self._small, held - self._held, asks)

    def _admit(self, queue: deque[Asked], room: int, asks: int) -> None:
        """Hand over from ``queue`` what costs no more than ``room``."""
        while queue and (queue[0].over or self._fits(queue[0], room, asks)):
            asked = queue.popleft()
            self._waiting_bytes -= len(asked.body.body)
            if asked.over:
                continue
            self._tickets += 1
            asked.ticket = asked.body.ticket = self._tickets
            room -= asked.cost
            self._held += asked.cost
            if asked.reply is None:
                self._told += asked.cost
            else:
                self._open[asked.ticket] = asked
            self._outbox.put(asked.body)

    def _fits(self, asked: Asked, room: int, asks: int) -> bool:
        tell = asked.reply is None
        return asked.cost <= room and (tell or len(self._open) < asks)

    def told(self, cost: int) -> None:
        """Take it that the peer has dealt with tells that cost so much."""
        if cost > self._told:
            raise ProtocolError(f"{cost} bytes of tells dealt with, of {self._told}")
        self._told -= cost
        self._held -= cost

    def answer(self, ticket: int, total: int) -> Arriving:
        """Begin to take the answer of ``total`` bytes to ``ticket``."""
        asked = self._owed(ticket)
        if asked.arriving is not None or asked.body.left or not asked.body.begun:
            raise ProtocolError(f"an answer to ask {ticket} out of turn")
        asked.arriving = self._room(asked, total)
        return asked.arriving

    def _room(self, asked: Asked, total: int) -> Arriving:
        """Return where an answer goes: nowhere, if it is too late or too long."""
        most = self._limits.answer_bytes if asked.into is None else len(asked.into)
        room = self._limits.arriving_bytes
        why: FedError | None = None
        if total > most:
            why = ProtocolError(f"an answer of {total} bytes, {most} allowed")
        elif asked.into is None and self._arriving + total > room:
            why = PeerLostError("too many answers are arriving at once")
        if why is not None and not asked.over:
            asked.fail(why)
            self._outbox.control.append(frame(Kind.CANCEL, asked.ticket))
        if asked.over:
            return Arriving(total, None)
        if asked.into is not None:
            return Arriving(total, asked.into[:total])
        self._arriving += total
        return fresh(total)

    def part(self, ticket: int) -> Arriving:
        """Return the answer to ``ticket`` that goes on."""
        arriving = self._owed(ticket).arriving
        if arriving is None:
            raise ProtocolError(f"a part of no answer to ask {ticket}")
        return arriving

    def arrived(self, ticket: int) -> None:
        """Take it that the answer to ``ticket`` is complete."""
        asked = self._close(ticket)
        arriving, reply = asked.arriving, asked.reply
        if asked.over or arriving is None or arriving.target is None or reply is None:
            return
        asked.over = True
        reply.arrived = arriving.total
        whole = asked.into is not None
        reply.set_result(arriving.total if whole else bytes(arriving.target))  # type: ignore[arg-type]  # by into, as ask() says

    def refused(self, ticket: int, error: FedError) -> None:
        """Take it that ``ticket`` has no answer, or none any more."""
        asked = self._close(ticket)
        self._outbox.drop(Kind.ASK, ticket)
        asked.fail(error)

    def _owed(self, ticket: int) -> Asked:
        asked = self._open.get(ticket)
        if asked is None:
            raise ProtocolError(f"an answer to ask {ticket}, which is not open")
        return asked

    def _close(self, ticket: int) -> Asked:
        asked = self._owed(ticket)
        del self._open[ticket]
        self._held -= asked.cost
        if asked.arriving is not None and asked.arriving.owned:
            self._arriving -= asked.arriving.total
        return asked

    def expire(self, now_s: float) -> None:
        """Fail the asks whose time is over, and tell the peer."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            asked = heapq.heappop(self._deadlines)[2]
            if asked.over:
                continue
            asked.fail(PeerLostError("no answer in time"))
            if asked.ticket:
                self._withdraw(asked)
        if len(self._deadlines) > 2 * len(self._open) + 2 * self._limits.waiting:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].over]
            heapq.heapify(self._deadlines)

    def _withdraw(self, asked: Asked) -> None:
        self._outbox.drop(Kind.ASK, asked.ticket)
        if asked.body.begun:  # the peer has heard of it, and will close the ticket
            self._outbox.control.append(frame(Kind.CANCEL, asked.ticket))
        else:
            self._close(asked.ticket)

    def due_s(self) -> float:
        """Return when ``expire`` has something to do."""
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def end(self, error: PeerLostError) -> None:
        """Fail everything: the channel is over."""
        every: Iterable[Asked] = (*self._open.values(), *self._small, *self._bulk)
        for asked in every:
            asked.fail(error)
        for queue in (self._open, self._small, self._bulk, self._tells):
            queue.clear()
