"""The requests of others: read at once, counted, answered one by one on each stream.

Handlers never delay the reading of other streams. What a peer asks too often is
answered later; if it goes on, or opens too many streams, it is dropped by name.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from libp2p.abc import INetStream

from fedcore.errors import FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.libp2p.config import Quotas
from p2p.libp2p.framing import Kind, frame, refusal
from p2p.libp2p.links import Links
from p2p.libp2p.quota import Buckets, Held
from p2p.libp2p.streams import Frames
from p2p.transport import MAX_BODY_BYTES, Handler

SILENT_S = 60.0  # a stream without a request is closed
MAX_SLEEP_S = 2.0
log = logging.getLogger(__name__)


class Server:
    """Answers with handlers, within quotas."""

    def __init__(
        self, quotas: Quotas, links: Links, heard: Callable[[PeerId], None]
    ) -> None:
        """Answer others.

        Args:
            quotas: what they may take.
            links: who they are.
            heard: told whenever a peer has said something.
        """
        self.quotas, self._links, self._heard = quotas, links, heard
        self.held = Held(quotas.held_bytes, quotas.held_bytes_per_peer)
        self._buckets = Buckets(quotas.requests_per_s, quotas.burst)
        self._streams: Counter[PeerId] = Counter()
        self._running = trio.CapacityLimiter(quotas.handlers)

    def stream_handler(
        self, topic: str, handler: Handler
    ) -> Callable[[INetStream], Awaitable[None]]:
        """Return what serves a stream of ``topic`` with ``handler``."""

        async def serve(stream: INetStream) -> None:
            peer, frames = str(stream.muxed_conn.peer_id), Frames(stream)
            self._streams[peer] += 1
            try:
                if self._streams[peer] > self.quotas.streams_per_peer:
                    self._charge(peer)
                elif await self._links.admitted(peer):
                    await self._serve(peer, frames, partial(handler, peer))
            except ProtocolError as error:
                self._links.drop(peer, f"{topic}: {error}")
            finally:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]
                await frames.end()

        return serve

    async def _serve(
        self, peer: PeerId, frames: Frames, handler: Callable[[bytes], Awaitable[bytes]]
    ) -> None:
        while True:
            with trio.fail_after(SILENT_S):
                head = await frames.head()
            if head is None:
                return
            kind, size = head
            if kind > Kind.TELL:
                raise ProtocolError("an answer to no question")
            self._heard(peer)
            await trio.sleep(self._charge(peer))
            reply = await self._request(peer, frames, size, handler)
            if kind == Kind.ASK:
                await frames.send(reply)

    def _charge(self, peer: PeerId) -> float:
        """Count a request and return how long to wait before it is answered."""
        wait_s, excess_s = self._buckets.take(peer, trio.current_time())
        if excess_s > self.quotas.patience_s:
            most = self.quotas.requests_per_s
            self._links.drop(peer, f"more than {most:g} requests a second")
        return min(wait_s, MAX_SLEEP_S)

    async def _request(
        self,
        peer: PeerId,
        frames: Frames,
        size_bytes: int,
        handler: Callable[[bytes], Awaitable[bytes]],
    ) -> bytes:
        """Read a request and return the frame that answers it."""
        taken = 0

        def keep(piece_bytes: int) -> bool:
            nonlocal taken
            fits = self.held.take(peer, piece_bytes)
            if not fits:  # what there is makes room for others
                self.held.give(peer, taken)
            taken = taken + piece_bytes if fits else 0
            return fits

        try:
            body = await frames.body(size_bytes, keep)
            if body is None:
                return refusal(Kind.BUSY, "too much waits already; ask again later")
            async with self._running:
                return await _answered(handler, body)
        finally:
            self.held.give(peer, taken)


async def _answered(handler: Callable[[bytes], Awaitable[bytes]], body: bytes) -> bytes:
    """Return the frame with the handler's answer, or with why there is none."""
    try:
        answer = await handler(body)
    except PeerLostError as error:
        return refusal(Kind.BUSY, str(error))
    except FedError as error:
        return refusal(Kind.REFUSED, str(error))
    except Exception:
        log.exception("a handler failed")
        return refusal(Kind.REFUSED, "failed; its people can read why in their log")
    if len(answer) > MAX_BODY_BYTES:
        return refusal(Kind.REFUSED, f"the answer has {len(answer)} bytes, too many")
    return frame(Kind.ANSWER, answer)
