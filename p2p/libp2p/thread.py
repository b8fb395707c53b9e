"""The mesh for programs without trio: one transport in a thread of its own.

Every method may be called from any thread. What goes wrong arrives in the future, as
one of our own errors.
"""

import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

import trio

from fedcore.errors import FedError, PeerLostError
from fedcore.names import PeerId
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.transport import Libp2pTransport, open_libp2p
from p2p.transport import Path, Watcher, check_size

SyncHandler = Callable[[PeerId, bytes], "Future[bytes]"]
T = TypeVar("T")
START_S = 30.0
CLOSE_S = 10.0
ANSWER_S = 120.0  # a request of another peer that nobody has answered by then
log = logging.getLogger(__name__)


class MeshThread:
    """Runs one transport from ``start`` to ``close``; also a context manager."""

    def __init__(self, config: Libp2pConfig) -> None:
        """Prepare the node that ``config`` describes."""
        self.config = config
        self.me = config.key.peer
        self._thread = threading.Thread(target=self._run, name="libp2p", daemon=True)
        self._up: Future[None] = Future()
        self._transport: Libp2pTransport
        self._token: trio.lowlevel.TrioToken
        self._stop: trio.Event

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Begin, and return when the node listens.

        Raises:
            ConfigError: an address to listen on is wrong, or in use.
            PeerLostError: the node did not start within 30 seconds.
        """
        self._thread.start()
        try:
            self._up.result(START_S)
        except TimeoutError:
            raise PeerLostError("the mesh did not start") from None
        return self

    def close(self) -> None:
        """End within ten seconds; what is under way is lost. Repeats are harmless."""
        if self._thread.ident is None:
            return
        with suppress(TimeoutError):
            if self._up.exception(START_S) is None:
                self._soon(lambda: self._stop.set())
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("the mesh did not end within %.0f s", CLOSE_S)

    def peers(self) -> Collection[PeerId]:
        """Return who is connected now."""
        return self._call(lambda: self._transport.peers())

    def path(self, peer: PeerId) -> Path | None:
        """Return how ``peer`` is reached now; None if it is not."""
        return self._call(lambda: self._transport.path(peer))

    def addresses(self) -> list[str]:
        """Return where others can dial us."""
        return self._call(lambda: self._transport.addresses())

    def observed(self) -> list[str]:
        """Return the addresses at which two trusted peers or more agree to see us."""
        return self._call(lambda: self._transport.observed())

    def trust(self, peers: Collection[PeerId]) -> None:
        """Believe ``peers``, and nobody else, where they see us; soon."""
        self._soon(lambda: self._transport.trust(peers))

    def listen_elsewhere(self, received_bytes: Callable[[PeerId], int]) -> None:
        """See ``Libp2pTransport``; it is called in the mesh's thread."""
        self._call(lambda: self._transport.listen_elsewhere(received_bytes))

    def leave(self, hosts: Collection[str]) -> None:
        """End the connections that this machine, now at ``hosts``, has no more."""
        self._soon(lambda: self._transport.leave(hosts))

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` for each peer that comes or goes, in the mesh's thread."""
        self._call(lambda: self._transport.watch(watcher))

    def serve(self, topic: str, handler: SyncHandler) -> None:
        """Answer ``topic`` with ``handler``, called in the mesh's thread.

        It must return at once, and may set the result of its future later and from any
        thread; a ``ProtocolError`` set there refuses, with its text.
        """

        async def answer(peer: PeerId, body: bytes) -> bytes:
            return await _answer_of(handler(peer, body))

        self._call(lambda: self._transport.serve(topic, answer))

    def ask(
        self, peer: PeerId, topic: str, body: bytes, timeout_s: float
    ) -> "Future[bytes]":
        """Return what will be the answer of ``peer``; cancelling gives up.

        The future ends with the answer, PeerLostError or ProtocolError.
        """
        return self._submit(
            lambda: self._transport.ask(peer, topic, body, timeout_s=timeout_s)
        )

    def tell(self, peer: PeerId, topic: str, body: bytes) -> None:
        """Send ``body``; it is lost silently if it cannot go out.

        Raises:
            ProtocolError: ``body`` is too long.
        """
        check_size(len(body))
        self._submit(lambda: self._transport.tell(peer, topic, body))

    def connect(
        self, addresses: Sequence[str], timeout_s: float, *, again: bool = False
    ) -> "Future[PeerId]":
        """Return who will be connected; see ``Libp2pTransport.connect``."""
        return self._submit(
            lambda: self._transport.connect(addresses, timeout_s=timeout_s, again=again)
        )

    def disconnect(self, peer: PeerId) -> None:
        """End all connections with ``peer``, soon."""
        self._submit(lambda: self._transport.disconnect(peer))

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._up.done():
                log.exception("the mesh failed")
            else:
                self._up.set_exception(_ours(error))

    async def _main(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        async with open_libp2p(self.config) as self._transport:
            self._up.set_result(None)
            await self._stop.wait()

    def _soon(self, action: Callable[[], object]) -> bool:
        """Run ``action`` in the mesh's thread; return False if that does not run."""
        ready = self._up.done() and self._up.exception() is None
        return ready and _soon(self._token, action)

    def _call(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns in the mesh's thread."""

        async def run() -> T:
            return action()

        if threading.current_thread() is self._thread:
            return action()
        try:
            return self._submit(run).result(CLOSE_S)
        except TimeoutError:
            raise PeerLostError("the mesh is too busy to answer") from None

    def _submit(self, action: Callable[[], Awaitable[T]]) -> "Future[T]":
        """Run ``action`` in the mesh's thread and return its result to come."""
        task = _Task(action)
        if not self._soon(lambda: task.begin(self._transport.nursery)):
            task.future.set_exception(PeerLostError("the mesh does not run"))
        return task.future


class _Task(Generic[T]):
    """Something asynchronous whose result another thread awaits, or gives up."""

    def __init__(self, action: Callable[[], Awaitable[T]]) -> None:
        self.action = action
        self.future: Future[T] = Future()
        self.scope = trio.CancelScope()

    def begin(self, nursery: trio.Nursery) -> None:
        """Start; in the thread of ``nursery``."""
        token = trio.lowlevel.current_trio_token()
        self.future.add_done_callback(lambda _: _soon(token, self.scope.cancel))
        try:
            nursery.start_soon(self._run)
        except RuntimeError:  # it takes no more tasks
            self._end(PeerLostError("the mesh has ended"))

    async def _run(self) -> None:
        error: FedError = PeerLostError("given up, or the mesh has ended")
        try:
            with self.scope:
                result = await self.action()
                if self.future.set_running_or_notify_cancel():
                    self.future.set_result(result)
        except FedError as own:
            error = own
        finally:
            self._end(error)

    def _end(self, error: FedError) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


async def _answer_of(future: "Future[bytes]") -> bytes:
    """Return the result of ``future``, which another thread sets."""
    token, done = trio.lowlevel.current_trio_token(), trio.Event()
    future.add_done_callback(lambda _: _soon(token, done.set))
    try:
        with trio.move_on_after(ANSWER_S):
            await done.wait()
    finally:
        future.cancel()  # without effect when it is done
    if future.cancelled() or not future.done():  # who works on it cannot be stopped
        raise PeerLostError("nobody answered in time")
    return future.result()


def _soon(token: trio.lowlevel.TrioToken, action: Callable[[], object]) -> bool:
    """Run ``action`` in the thread of ``token``; return False if that has ended."""
    try:
        token.run_sync_soon(action)
    except trio.RunFinishedError:
        return False
    return True


def _ours(error: BaseException) -> BaseException:
    """Return why the mesh did not start as one of our own errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FedError) or not isinstance(error, Exception):
        return error
    return PeerLostError(f"the mesh did not start: {error}")
