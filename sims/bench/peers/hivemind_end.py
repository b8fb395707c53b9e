"""An end of a stream between two daemons of hivemind (tested: 1.1.12).

    python -m sims.bench.peers.hivemind_end

The daemon is ``p2pd``, from go-libp2p; Python speaks with it through a Unix socket.
"""

import asyncio
import struct
import threading
import time
from collections.abc import Coroutine
from importlib import import_module
from typing import Any

from sims.bench.peers.answers import answer

WORD = struct.Struct("<q")  # asks for so many bytes; if negative, to echo as many
PIECE_BYTES = 1 << 18
GIVE = "give"


class End:
    """A peer: gives to others, and pulls from them."""

    def __init__(self) -> None:
        self.p2p = import_module("hivemind.p2p")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.daemon: Any = None
        self.reader: Any = None
        self.writer: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` returns, done in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def where(self) -> str:
        """Begin to give; return where."""
        self.daemon = self.run(self.p2p.P2P.create())
        self.run(self.daemon.add_binary_stream_handler(GIVE, self._give))
        return str(self.run(self.daemon.get_visible_maddrs())[0])

    async def _give(self, about: Any, reader: Any, writer: Any) -> None:
        whole = bytes(PIECE_BYTES)
        while True:
            count = WORD.unpack(await reader.readexactly(WORD.size))[0]
            if count < 0:
                writer.write(await reader.readexactly(-count))
            for at in range(0, max(count, 0), PIECE_BYTES):
                writer.write(whole[: min(PIECE_BYTES, count - at)])
                await writer.drain()
            await writer.drain()

    def reach(self, where: str) -> bool:
        """Open a stream to who gives at ``where``."""
        self.daemon = self.run(self.p2p.P2P.create(initial_peers=[where]))
        peer = self.p2p.PeerID.from_base58(where.rpartition("/")[2])
        opening = self.daemon.call_binary_stream_handler(peer, GIVE)
        _, self.reader, self.writer = self.run(opening)
        return True

    def pull(self, count: int) -> bool:
        """Move so many bytes here."""
        self.run(self._pulled(count))
        return True

    async def _pulled(self, count: int) -> None:
        into, at = memoryview(bytearray(count)), 0
        self.writer.write(WORD.pack(count))
        while at < count:
            part = await self.reader.read(min(PIECE_BYTES, count - at))
            if not part:
                raise ConnectionResetError
            into[at : at + len(part)] = part
            at += len(part)

    def echo(self, count: int, times: int) -> list[float]:
        """Return the seconds of each of some round trips of ``count`` bytes."""
        return [float(self.run(self._echoed(bytes(count)))) for _ in range(times)]

    async def _echoed(self, body: bytes) -> float:
        began_s = time.perf_counter()
        self.writer.write(WORD.pack(-len(body)) + body)
        await self.reader.readexactly(len(body))
        return time.perf_counter() - began_s

    def close(self) -> None:
        """End the daemon."""
        if self.daemon is not None:
            self.run(self.daemon.shutdown())


if __name__ == "__main__":
    end = End()
    answer({do: getattr(end, do) for do in ("where", "reach", "pull", "echo")})
    end.close()
