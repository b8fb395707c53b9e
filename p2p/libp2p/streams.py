"""One libp2p stream that carries frames."""

from collections.abc import Callable

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from fedcore.errors import ProtocolError
from p2p.libp2p.framing import HEAD_BYTES, Kind, head_of

READ_BYTES = 1 << 16
BODY_S = 60.0  # a frame that has begun is there by then
RESET_S = 1.0


class Frames:
    """Reads and writes whole frames."""

    def __init__(self, stream: INetStream) -> None:
        self.stream = stream

    async def send(self, raw: bytes) -> None:
        """Write ``raw``, which is a whole frame."""
        await self.stream.write(raw)

    async def head(self) -> tuple[Kind, int] | None:
        """Return the kind and length of the next frame; None at a clean end."""
        raw = await self._exactly(HEAD_BYTES)
        return None if raw is None else head_of(raw)

    async def body(
        self, size_bytes: int, keep: Callable[[int], bool] = lambda size: True
    ) -> bytes | None:
        """Return the body of a frame, within a minute.

        Args:
            size_bytes: its length, as the head says.
            keep: asked for each piece that came whether it may be kept; after a no
                the rest is read and thrown away.

        Returns:
            The body; None if it could not be kept.
        """
        with trio.fail_after(BODY_S):
            kept: bytearray | None = bytearray()
            left = size_bytes
            while left:
                piece = await self.stream.read(min(left, READ_BYTES))
                if not piece:
                    raise ProtocolError(f"a frame cut short by {left} bytes")
                left -= len(piece)
                if kept is not None and keep(len(piece)):
                    kept += piece
                else:
                    kept = None
            return None if kept is None else bytes(kept)

    async def _exactly(self, count: int) -> bytes | None:
        raw = b""
        while len(raw) < count:
            try:
                piece = await self.stream.read(count - len(raw))
            except StreamEOF:
                piece = b""
            if not piece and not raw:
                return None
            if not piece:
                raise ProtocolError("a frame cut short in its head")
            raw += piece
        return raw

    async def end(self) -> None:
        """End the stream for good, also while we are being cancelled."""
        with trio.move_on_after(RESET_S) as scope:
            scope.shield = True
            await self.stream.reset()


async def open_frames(connection: INetConn, protocol: TProtocol) -> Frames:
    """Open a stream for ``protocol`` on ``connection``."""
    with trio.CancelScope() as scope:
        scope.shield = True  # cancelled in the middle, the library loses a slot
        frames = Frames(await connection.new_stream())
    try:
        talk, client = MultiselectCommunicator(frames.stream), MultiselectClient()
        await client.handshake(talk)
        await client.try_select(talk, protocol)
    except BaseException:
        await frames.end()
        raise
    frames.stream.set_protocol(protocol)
    return frames
