"""An end of a connection between two peers of Lattica (tested: 1.0.21).

    python -m sims.bench.peers.lattica_end ROLE

Lattica pickles whatever goes over the wire and unpickles whatever comes: only our own
two processes speak here, over the loopback interface, and only of bytes.
"""

import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from sims.bench.peers.answers import answer

PIECE_BYTES = 10_000_000  # of one streamed answer
HERE = "127.0.0.1"
REACH_S = 20.0


class End:
    """A peer: gives to others, and pulls from them. ``role`` names its files."""

    def __init__(self, role: str) -> None:
        self.library = import_module("lattica")
        self.folder = Path(f"lattica-{role}").absolute()
        self.folder.mkdir()
        self.peer: Any = None
        self.stub: Any = None

    def _built(self, port: int, bootstraps: list[str]) -> Any:
        place = f"/ip4/{HERE}/tcp/{port}"
        made = self.library.Lattica.builder().with_listen_addrs([place])
        made = made.with_mdns(False).with_upnp(False).with_autonat(False)
        made = made.with_dcutr(False).with_key_path(str(self.folder))
        made = made.with_storage_path(str(self.folder / "storage"))
        made = made.with_dht_db_path(str(self.folder / "dht"))
        return made.with_bootstraps(bootstraps).build() if bootstraps else made.build()

    def _service(self) -> Any:
        library = self.library

        class Giving(library.ConnectionHandler):  # type: ignore[misc, name-defined]
            @library.rpc_stream  # type: ignore[untyped-decorator]
            def give(self, count: int) -> bytes:
                return bytes(count)

            @library.rpc_method  # type: ignore[untyped-decorator]
            def echo(self, body: bytes) -> bytes:
                return body

        return Giving(self.peer)

    def where(self) -> str:
        """Begin to give; return where, which it does not tell itself."""
        with socket.create_server((HERE, 0)) as door:
            port = door.getsockname()[1]
        self.peer = self._built(port, [])
        self._kept = self._service()
        return f"/ip4/{HERE}/tcp/{port}/p2p/{self.peer.peer_id()}"

    def reach(self, where: str) -> bool:
        """Connect to who gives at ``where``."""
        self.peer = self._built(0, [where])
        self.stub = self._service().get_stub(where.rpartition("/")[2])
        until_s = time.monotonic() + REACH_S
        while True:
            try:
                return bool(self.stub.echo(b"here").result() == b"here")
            except Exception:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.2)

    def pull(self, count: int) -> bool:
        """Move so many bytes here."""
        for at in range(0, count, PIECE_BYTES):
            part = min(PIECE_BYTES, count - at)
            if len(self.stub.give(part).result()) != part:
                raise ConnectionResetError
        return True

    def echo(self, count: int, times: int) -> list[float]:
        """Return the seconds of each of some round trips of ``count`` bytes."""
        taken, body = [], bytes(count)
        for _ in range(times):
            began_s = time.perf_counter()
            self.stub.echo(body).result()
            taken.append(time.perf_counter() - began_s)
        return taken


if __name__ == "__main__":
    end = End(sys.argv[1])
    answer({do: getattr(end, do) for do in ("where", "reach", "pull", "echo")})
