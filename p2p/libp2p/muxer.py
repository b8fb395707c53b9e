"""Yamux that survives cancelled writers, stalled peers and peers that ignore windows.

Departures from the library's own class, each for something seen to go wrong:

* A write that is cancelled half way, such as by the deadline of a request, leaves half
  a Noise message on the wire and ends the connection. Here a frame is written whole.
* Closing waits for the write lock, so a connection whose peer reads nothing cannot be
  closed. Here closing gives the write at hand half a second, and ends in two.
* What a peer sends beyond its window is kept without limit. Here that ends the
  connection.
"""

from collections.abc import Awaitable

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.yamux.yamux import Yamux

WRITE_S = 30.0  # a peer that takes nothing for so long is gone
LAST_WRITE_S = 0.5
CLOSE_S = 2.0
MAX_UNREAD_BYTES = 4 << 20  # of all streams of one connection


class Muxer(Yamux):
    """The muxer of every connection.

    Attributes:
        own_host: the address of this machine that it uses; empty if that is not known,
            as of a circuit.
    """

    own_host = ""
    _patience: trio.CancelScope | None = None
    _cut = False

    async def _write_frame(self, data: bytes) -> None:
        async with self._write_lock:
            if self._cut:
                raise ConnectionClosedError("the connection is being closed")
            with trio.move_on_after(WRITE_S) as patience:
                patience.shield = True
                self._patience = patience
                await self.secured_conn.write(data)
            self._patience = None
            self._cut = patience.cancelled_caught
        if self._cut:
            await self.secured_conn.close()  # the reader notices, and cleans up
            raise ConnectionClosedError("the peer reads nothing")

    async def close(self, error_code: int = 0) -> None:
        if self._patience is not None:
            soon_s = trio.current_time() + LAST_WRITE_S
            self._patience.deadline = min(self._patience.deadline, soon_s)
        whole = await _in_time(super().close(error_code))
        self._cut = True
        if not whole:
            await _in_time(self.secured_conn.close())
        self.event_shutting_down.set()
        self.event_closed.set()

    async def _read_data_body(self, length: int) -> bytes:
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > MAX_UNREAD_BYTES:
            # The one error after which the library closes the connection at once.
            raise trio.TooSlowError("the peer sends more than its windows allow")
        return await super()._read_data_body(length)


async def _in_time(closing: Awaitable[None]) -> bool:
    """Return whether ``closing`` ended within two seconds; we are not cancelled."""
    with trio.move_on_after(CLOSE_S) as scope:
        scope.shield = True
        await closing
    return not scope.cancelled_caught
