"""Runs a machine on a real clock and real wires, in one thread of its own.

Everything that happens becomes an event; the thread takes them one by one, so a machine
never sees two at once, and from each peer in its turn (``p2p.turns``). Effects are
handed to the wires, which never block. Other threads reach the machine through ``call``
alone.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from fedcore.errors import FedError, PeerLostError, ProtocolError, StorageError
from fedcore.names import PeerId
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Effect,
    Event,
    Failed,
    Machine,
    Note,
    Refuse,
    Tell,
    Ticket,
    Told,
    Wake,
    Woken,
)
from p2p.turns import NOBODY, Turns

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_WAITING = 4096  # events; more means that we are flooded or stuck
MOST_WAITING_BYTES = 32 << 20  # of what others said in them
MOST_TOLD_EACH = 256  # of them, told by one peer
MOST_BYTES_EACH = 4 << 20  # in what one peer said and that waits
MOST_OPEN = 1024  # questions of others that have no answer yet
MOST_OPEN_EACH = 64  # of one peer
DISK_S = 1.0  # after which a machine whose disk failed is woken again
LONGEST_SLEEP_S = 60.0  # a clock that was stopped with the machine is noticed


class Wires(Protocol):
    """How effects leave a node. No method blocks."""

    def ask(self, ask: Ask) -> "Future[bytes]":
        """Ask; the future ends with the answer, PeerLostError or ProtocolError."""
        ...

    def tell(self, tell: Tell) -> None:
        """Send, or drop it silently."""
        ...

    def do(self, effect: object, post: Callable[[Any], None]) -> None:
        """Carry out an effect that is not of ``p2p.machine``."""
        ...


@dataclass(frozen=True, slots=True)
class _Call:
    """Something to do in the machine's thread."""

    action: Callable[[float], tuple[object, Sequence[Effect]]]
    done: "Future[object]"


class Driver:
    """Runs ``machine`` on ``wires`` until ``close``.

    Args:
        machine: what decides.
        wires: what carries out.
        note: told everything that people should know, in the machine's thread.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        machine: Machine,
        wires: Wires,
        note: Callable[[Note], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine, self.wires, self.note, self.clock = machine, wires, note, clock
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self._inbox = Turns()
        self._open: dict[Ticket, tuple[PeerId, Future[bytes]]] = {}
        self._asking: Counter[PeerId] = Counter()
        self._lock = threading.Lock()  # over the two above
        self._tickets = itertools.count()
        self._alarm_s = self.clock()
        self._thread = threading.Thread(target=self._run, name="mesh", daemon=True)

    def start(self) -> "Driver":
        """Begin; the machine is woken first."""
        self._thread.start()
        return self

    def close(self, timeout_s: float = 10.0) -> None:
        """End after the event at hand; open questions are refused."""
        self._inbox.put(NOBODY, None)
        self._thread.join(timeout_s)

    def post(self, event: Any) -> None:
        """Let the machine know of ``event``, which may be of its own kind; any thread.

        What others tell is dropped while too much is waiting.
        """
        peer = getattr(event, "peer", None) or NOBODY
        size_bytes = len(event.body) if isinstance(event, Told) else 0
        if not isinstance(event, Told) or self._has_room(peer, size_bytes):
            self._inbox.put(peer, event, size_bytes)

    def _has_room(self, peer: PeerId, size_bytes: int) -> bool:
        count, waiting_bytes = self._inbox.waiting(peer)
        if count >= MOST_TOLD_EACH or waiting_bytes + size_bytes > MOST_BYTES_EACH:
            return False
        return not self._is_full()

    def asked(self, peer: PeerId, topic: str, body: bytes) -> "Future[bytes]":
        """Return what will be the machine's answer; from any thread."""
        future: Future[bytes] = Future()
        with self._lock:
            if busy := self._busy(peer):
                future.set_exception(PeerLostError(busy))
                return future
            ticket = next(self._tickets)
            self._open[ticket] = peer, future
            self._asking[peer] += 1
        self._inbox.put(peer, Asked(peer, topic, body, ticket), len(body))
        if self.ended.is_set():
            future.cancel()
        return future

    def _busy(self, peer: PeerId) -> str | None:
        if self._asking[peer] >= MOST_OPEN_EACH:
            return f"{MOST_OPEN_EACH} questions of yours wait for answers already"
        much = self._inbox.waiting(peer)[1] >= MOST_BYTES_EACH
        if much or len(self._open) >= MOST_OPEN or self._is_full():
            return "busy; ask again later"
        return None

    def _is_full(self) -> bool:
        inbox = self._inbox
        return inbox.count > MOST_WAITING or inbox.size_bytes > MOST_WAITING_BYTES

    def call(
        self,
        action: Callable[[float], tuple[T, Sequence[Effect]]],
        timeout_s: float = 30.0,
    ) -> T:
        """Run ``action(now_s)`` in the machine's thread and return its result.

        Args:
            action: may use the machine; returns a result, and effects to carry out.
            timeout_s: longest wait, in seconds.

        Raises:
            FedError: what ``action`` raised.
            PeerLostError: the node has ended, or is too busy to answer in time. Then
                ``action`` has not run and will not, unless it hangs.
        """
        done: Future[object] = Future()
        self._inbox.put(NOBODY, _Call(action, done))
        if self.ended.is_set():
            done.cancel()
        try:
            wait([done], timeout_s)
            done.cancel()  # unless it runs already: then its result is near
            return cast(T, done.result(timeout_s))
        except (TimeoutError, CancelledError):
            raise PeerLostError("the node has ended or is too busy") from None

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.exception("the mesh node failed")
            self.failure = error
        finally:
            self.ended.set()
            self._refuse_all()

    def _refuse_all(self) -> None:
        with self._lock:
            left = [future for _, future in self._open.values()]
        for future in left:
            future.cancel()
        while (taken := self._inbox.take(0.0)) is not None:
            if isinstance(taken[1], _Call):
                taken[1].done.cancel()

    def _turn(self) -> bool:
        """Take the alarm if it is due, and one event; return False at the end."""
        wait_s = self._alarm_s - self.clock()
        if wait_s <= 0:  # first: it must not starve behind a full inbox
            self._alarm_s = float("inf")
            self._step(Woken())
            wait_s = 0.0  # nor the inbox behind an alarm that rings again and again
        taken = self._inbox.take(min(wait_s, LONGEST_SLEEP_S))
        if taken is None:
            return True
        (peer, event), began_s = taken, time.thread_time()
        if isinstance(event, _Call):
            self._serve(event)
        elif event is not None:
            self._step(event)
        self._inbox.spent(peer, time.thread_time() - began_s)
        return event is not None

    def _serve(self, call: _Call) -> None:
        if not call.done.set_running_or_notify_cancel():
            return
        try:
            result, effects = call.action(self.clock())
        except FedError as error:
            call.done.set_exception(error)
            return
        except BaseException:
            call.done.set_exception(PeerLostError("the node has failed"))
            raise
        call.done.set_result(result)
        self._carry_out(effects)

    def _step(self, event: Any) -> None:
        try:
            effects = self.machine.step(self.clock(), event)
        except ProtocolError as error:
            self._refused(event, str(error))
            return
        except StorageError as error:
            self.note(Note("disk", str(error)))
            if isinstance(event, Asked):
                self._answer(Refuse(event.ticket, "the disk here takes nothing"))
            elif isinstance(event, Woken):
                self._alarm_s = self.clock() + DISK_S
            return
        self._carry_out(effects)

    def _refused(self, event: object, why: str) -> None:
        peer = getattr(event, "peer", None)
        self.note(Note("refused", why, peer))
        if isinstance(event, Asked):
            self._answer(Refuse(event.ticket, why))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    self._ask(effect)
                case Tell():
                    self.wires.tell(effect)
                case Answer() | Refuse():
                    self._answer(effect)
                case Wake():
                    self._alarm_s = effect.at_s
                case Note():
                    self.note(effect)
                case _:
                    self.wires.do(effect, self.post)

    def _answer(self, effect: Answer | Refuse) -> None:
        with self._lock:
            peer, future = self._open.pop(effect.ticket, ("", None))
            self._asking.subtract([peer])
            self._asking += Counter()  # forgets who asks nothing now
        if future is None or not future.set_running_or_notify_cancel():
            return
        if isinstance(effect, Answer):
            future.set_result(effect.body)
        else:
            future.set_exception(ProtocolError(effect.why))

    def _ask(self, ask: Ask) -> None:
        def ended(future: "Future[bytes]") -> None:
            self.post(_event_of(ask, future))

        self.wires.ask(ask).add_done_callback(ended)


def _event_of(ask: Ask, future: "Future[bytes]") -> Event:
    if future.cancelled():
        return Failed(ask.peer, ask.ticket, lost=True, why="given up")
    error = future.exception()
    if error is None:
        return Answered(ask.peer, ask.ticket, future.result())
    return Failed(
        ask.peer, ask.ticket, not isinstance(error, ProtocolError), str(error)
    )
