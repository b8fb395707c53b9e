"""One side of a channel as a pure state machine: plaintext in, frames out.

Knows nothing of sockets, threads and TLS. ``want`` says where the next bytes from the
peer belong, so that a large body goes from the decryption straight to its place;
``took`` says that they are there. Any ``ProtocolError`` ends the channel.
"""

from collections import deque
from collections.abc import Callable, Mapping

from fedcore.errors import FedError, PeerLostError, ProtocolError
from p2p.channel.answering import Answering
from p2p.channel.arriving import Arriving
from p2p.channel.asking import Asking
from p2p.channel.frames import (
    BODIES,
    HEAD_BYTES,
    TOPIC_BYTES,
    WORDS_BYTES,
    Head,
    Kind,
    cost_of,
    frame,
    read_head,
    topic_of,
    words_of,
)
from p2p.channel.limits import MOST, WINDOW_MIN_BYTES, Limits, read_greeting
from p2p.channel.outbox import Outbox

_PATIENCE = 3  # times silence_s: pings may have to wait behind much else
_FOREVER_S = float("inf")
_PINGS = 8  # of which the fastest tells the round trip; others waited in queues


class Talk:
    """One side of the conversation.

    Attributes:
        out: what is to be sent.
        asking: our asks and tells.
        answering: the peer's.
        granted: bytes that the peer may still send.
        rtt_s: the round trip lately; None until it was measured.
        over: why the peer ended the channel; None while it goes on.
    """

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.out = Outbox()
        self.asking = Asking(self.out, limits)
        self.answering = Answering(self.out, limits)
        self.granted = 0
        self.rtt_s: float | None = None
        self.over: str | None = None
        self._limits = limits
        self._heard_s = now_s
        self._patience_s = _PATIENCE * limits.silence_s
        self._ping: tuple[int, float] | None = None  # number and time of the open one
        self._pings = 0
        self._round_trips: deque[float] = deque(maxlen=_PINGS)
        self._ping_at_s = _FOREVER_S
        self._raw = memoryview(bytearray(HEAD_BYTES + max(TOPIC_BYTES, WORDS_BYTES)))
        self._got, self._need = 0, HEAD_BYTES
        self._head: Head | None = None
        self._body: Arriving | None = None  # where the part goes that is arriving
        self._left = 0  # bytes of that part still to come
        self._frames: Mapping[Kind, Callable[[Head, bytes], None]] = {
            Kind.HELLO: self._hello,
            Kind.ASK: self._begins,
            Kind.TELL: self._begins,
            Kind.ANSWER: self._answers,
            Kind.PART: self._goes_on,
            Kind.REFUSE: self._refuses,
            Kind.FAIL: self._fails,
            Kind.CANCEL: lambda head, _: self.answering.cancel(head.ticket),
            Kind.CREDIT: self._credits,
            Kind.TOLD: lambda head, _: self.asking.told(head.number),
            Kind.PING: self._pings_us,
            Kind.PONG: self._pongs,
            Kind.BYE: self._bye,
        }

    def begin(self, credit: int) -> None:
        """Say hello, and that the peer may send ``credit`` bytes."""
        self.granted = credit
        greeting = self._limits.greeting(credit).encoded()
        self.out.control.append(frame(Kind.HELLO, tail=greeting))

    def want(self) -> memoryview:
        """Return where the next bytes from the peer go; never empty."""
        if self._body is not None:
            return self._body.place(self._left)
        return self._raw[self._got : self._need]

    def took(self, count: int, now_s: float) -> None:
        """Take it that ``count`` bytes were written to the start of ``want()``.

        Raises:
            ProtocolError: the peer broke the rules; the channel is over.
        """
        self._heard_s = now_s
        if self._body is not None:
            self._body.at += count
            self._left -= count
            if not self._left:
                self._part_done()
            return
        self._got += count
        if self._got < self._need:
            return
        if self._head is None:
            self._head = read_head(self._raw)
            self._need += self._head.tail_bytes
        if self._got == self._need:
            self._frame_done(self._head, bytes(self._raw[HEAD_BYTES : self._got]))

    def _frame_done(self, head: Head, tail: bytes) -> None:
        if (self.asking.accepts is None) != (head.kind is Kind.HELLO):
            raise ProtocolError(f"{head.kind.name} out of turn")
        self._got, self._need = 0, HEAD_BYTES
        if head.kind in BODIES or head.kind is Kind.PART:
            cost = cost_of(head.topic_bytes, head.part_bytes)
            if cost > self.granted:
                raise ProtocolError(f"{cost} bytes with a credit of {self.granted}")
            self.granted -= cost
        self._frames[head.kind](head, tail)
        if self._body is None:
            self._head = None
        elif not self._left:
            self._part_done()
        self._check_control()

    def _check_control(self) -> None:
        """Refuse to write more and more replies for a peer that does not read them."""
        if len(self.out.control) > 4 * self._limits.asks + 64:
            raise ProtocolError("a flood of frames whose replies it does not read")

    def _part_done(self) -> None:
        head, body = self._head, self._body
        self._head = self._body = None
        if head is None or body is None or not body.complete:
            return
        kind = Kind(head.of) if head.kind is Kind.PART else head.kind
        if kind is Kind.ANSWER:
            self.asking.arrived(head.ticket)
        else:
            self.answering.arrived(kind, head.ticket)

    def _take(self, head: Head, body: Arriving) -> None:
        self._body, self._left = body, head.part_bytes

    def _hello(self, _: Head, tail: bytes) -> None:
        said = read_greeting(tail)
        self.asking.accepts, self.out.credit = said, said.credit_bytes
        self._ping_at_s = self._heard_s

    def _begins(self, head: Head, tail: bytes) -> None:
        self._take(head, self.answering.begin(head, topic_of(tail)))

    def _answers(self, head: Head, _: bytes) -> None:
        self._take(head, self.asking.answer(head.ticket, head.number))

    def _goes_on(self, head: Head, _: bytes) -> None:
        if head.of == Kind.ANSWER:
            body = self.asking.part(head.ticket)
        else:
            body = self.answering.part(Kind(head.of), head.ticket)
        body.check(head.number, head.part_bytes)
        self._take(head, body)

    def _refuses(self, head: Head, tail: bytes) -> None:
        self.asking.refused(head.ticket, ProtocolError(words_of(tail)))

    def _fails(self, head: Head, tail: bytes) -> None:
        self.asking.refused(head.ticket, PeerLostError(words_of(tail)))

    def _credits(self, head: Head, _: bytes) -> None:
        self.out.credit += head.number
        if self.out.credit > MOST:
            raise ProtocolError("a credit beyond all bounds")

    def _pings_us(self, head: Head, _: bytes) -> None:
        self.out.control.append(frame(Kind.PONG, number=head.number))

    def _pongs(self, head: Head, _: bytes) -> None:
        if self._ping is None or self._ping[0] != head.number:
            raise ProtocolError(f"PONG {head.number}, which nobody asked for")
        took_s = self._heard_s - self._ping[1]
        self._round_trips.append(took_s)
        self.rtt_s = min(self._round_trips)
        self._ping = None
        self._ping_at_s = self._heard_s + self._limits.ping_s

    def _bye(self, _: Head, tail: bytes) -> None:
        self.over = words_of(tail)

    def owed(self, target: int) -> int:
        """Return what to grant so that the peer may send ``target`` bytes; 0: wait."""
        target = max(target, WINDOW_MIN_BYTES)
        owed = target - self.granted
        return owed if owed >= target // 4 else 0

    def grant(self, count: int) -> None:
        """Let the peer send ``count`` bytes more."""
        self.granted += count
        self.out.control.append(frame(Kind.CREDIT, number=count))

    def tick(self, now_s: float) -> None:
        """Do what time asks for: call when ``due_s`` has come.

        Raises:
            PeerLostError: the peer is silent.
        """
        self.asking.expire(now_s)
        if now_s >= self._heard_s + self._limits.silence_s:
            raise PeerLostError(f"silent for {self._limits.silence_s:g} s")
        if self._ping is not None and now_s >= self._ping[1] + self._patience_s:
            raise PeerLostError(f"no answer to a ping for {self._patience_s:g} s")
        if self._ping is None and now_s >= self._ping_at_s:
            self._pings += 1
            self._ping = (self._pings, now_s)
            self.out.control.append(frame(Kind.PING, number=self._pings))

    def due_s(self) -> float:
        """Return when ``tick`` has something to do."""
        ping_s = self._ping_at_s
        if self._ping is not None:
            ping_s = self._ping[1] + self._patience_s
        silent_s = self._heard_s + self._limits.silence_s
        return min(self.asking.due_s(), ping_s, silent_s)

    def end(self, why: FedError) -> None:
        """Fail what waits: the channel is over, for the reason ``why``."""
        self._body = None
        self.asking.end(PeerLostError(str(why)))
