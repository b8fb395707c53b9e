"""Our requests to others, on streams that are kept for the next one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetConn
from libp2p.custom_types import TProtocol

from fedcore.errors import FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.libp2p.config import Quotas
from p2p.libp2p.faults import translated
from p2p.libp2p.framing import Kind, frame, reason_of
from p2p.libp2p.quota import Held
from p2p.libp2p.streams import Frames, open_frames
from p2p.transport import check_size

IDLE_S = 20.0  # the other side keeps a silent stream three times as long
MAX_IDLE = 4  # streams of one peer and topic
TELL_S = 10.0


def protocol_of(topic: str) -> TProtocol:
    """Return the libp2p protocol that carries ``topic``, such as "/state/1"."""
    return TProtocol("/fedcore" + topic)


@dataclass(slots=True)
class _Job:
    """One request: where it goes and, when ``done``, what came of it."""

    peer: PeerId
    topic: str
    raw: bytes
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    answer: bytes | None = None
    error: FedError | None = None


@dataclass(slots=True)
class _Idle:
    """A stream that waits for the next request on ``connection``."""

    frames: Frames
    connection: INetConn
    since_s: float


class Asker:
    """Asks and tells. Every stream is used by one request at a time."""

    def __init__(
        self,
        nursery: trio.Nursery,
        connection_to: Callable[[PeerId], INetConn],
        quotas: Quotas,
    ) -> None:
        """Ask within ``quotas``.

        Args:
            nursery: where requests run.
            quotas: how many at a time.
            connection_to: the connection to use; raises PeerLostError if none is up.
        """
        self._nursery, self._quotas = nursery, quotas
        self._connection_to = connection_to
        self._turns: dict[PeerId, trio.Semaphore] = {}
        each = quotas.waiting_bytes_per_peer
        self._held = Held(each * quotas.connections, each)
        self._waiting: Counter[PeerId] = Counter()
        self._idle: dict[tuple[PeerId, str], list[_Idle]] = {}

    async def ask(
        self, peer: PeerId, topic: str, body: bytes, timeout_s: float
    ) -> bytes:
        """Return the answer of ``peer``; see ``p2p.transport``."""
        job = self._begin(peer, topic, frame(Kind.ASK, body))
        try:
            with trio.move_on_after(timeout_s):
                await job.done.wait()
        finally:
            job.scope.cancel()
        if job.error is not None:
            raise job.error
        if job.answer is None:
            raise PeerLostError(f"{peer} did not answer {topic} within {timeout_s} s")
        return job.answer

    async def tell(self, peer: PeerId, topic: str, body: bytes) -> None:
        """Send ``body`` when possible; see ``p2p.transport``."""
        check_size(len(body))
        try:
            job = self._begin(peer, topic, frame(Kind.TELL, body))
        except PeerLostError:
            return
        job.scope.deadline = trio.current_time() + TELL_S
        await trio.lowlevel.checkpoint()

    def _begin(self, peer: PeerId, topic: str, raw: bytes) -> _Job:
        """Start a request, in a task that may outlive the deadline of its asker.

        What is being written when the deadline comes must be written to its end.
        """
        self._connection_to(peer)
        if self._waiting[peer] >= self._quotas.waiting_per_peer:
            raise PeerLostError(
                f"{self._waiting[peer]} requests to {peer} wait already"
            )
        if not self._held.take(peer, len(raw)):
            raise PeerLostError(f"{len(raw)} bytes for {peer}: too many wait already")
        self._waiting[peer] += 1
        job = _Job(peer, topic, raw)
        self._nursery.start_soon(self._run, job)
        return job

    async def _run(self, job: _Job) -> None:
        turn = self._turns.setdefault(
            job.peer, trio.Semaphore(self._quotas.asks_per_peer)
        )
        try:
            with job.scope:
                async with turn:
                    with translated(job.peer, job.topic):
                        job.answer = await self._exchange(job)
        except FedError as error:
            job.error = error
        finally:
            self._held.give(job.peer, len(job.raw))
            self._waiting[job.peer] -= 1
            if not self._waiting[job.peer]:
                del self._waiting[job.peer], self._turns[job.peer]
            job.done.set()

    async def _exchange(self, job: _Job) -> bytes | None:
        stream = await self._stream(job.peer, job.topic)
        try:
            await stream.frames.send(job.raw)
            told = job.raw[0] == Kind.TELL
            reply = None if told else await _reply(stream.frames, job)
        except BaseException:
            await stream.frames.end()
            raise
        stream.since_s = trio.current_time()
        idle = self._idle.setdefault((job.peer, job.topic), [])
        if len(idle) < MAX_IDLE:
            idle.append(stream)
        else:
            await stream.frames.end()
        return None if reply is None else _judged(job, *reply)

    async def _stream(self, peer: PeerId, topic: str) -> _Idle:
        connection, now_s = self._connection_to(peer), trio.current_time()
        idle = self._idle.get((peer, topic), [])
        while idle:
            stream = idle.pop()
            if stream.connection is connection and now_s - stream.since_s < IDLE_S:
                return stream
            await stream.frames.end()
        frames = await open_frames(connection, protocol_of(topic))
        return _Idle(frames, connection, now_s)

    async def sweep(self) -> None:
        """End the streams that nobody has used for long."""
        late_s = trio.current_time() - IDLE_S
        for place, streams in list(self._idle.items()):
            old = [s for s in streams if s.since_s < late_s or s.connection.is_closed]
            self._idle[place] = [s for s in streams if s not in old]
            if not self._idle[place]:
                del self._idle[place]
            for stream in old:
                await stream.frames.end()


async def _reply(frames: Frames, job: _Job) -> tuple[Kind, bytes]:
    head = await frames.head()
    if head is None:
        raise PeerLostError(f"{job.peer} hung up on {job.topic}")
    kind, size = head
    if kind < Kind.ANSWER:
        raise ProtocolError(f"{job.peer} answers {job.topic} with a question")
    return kind, await frames.body(size) or b""


def _judged(job: _Job, kind: Kind, body: bytes) -> bytes:
    """Return the answer, or raise what stands in its place."""
    if kind == Kind.ANSWER:
        return body
    why = f"{job.peer} on {job.topic}: {reason_of(body)}"
    raise ProtocolError(why) if kind == Kind.REFUSED else PeerLostError(why)
