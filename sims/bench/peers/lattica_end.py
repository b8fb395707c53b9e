"""An end of a connection between two peers of Lattica (tested: 1.0.21).

    python -m sims.bench.peers.lattica_end ROLE [ADDRESS]

Lattica pickles whatever goes over the wire and unpickles whatever comes: only our own
two processes speak here, over the loopback interface or in a laboratory of network
namespaces, and only of bytes.
"""

import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sims.bench.peers.answers import answer

PIECE_BYTES = 10_000_000  # of one streamed answer
HERE = "127.0.0.1"
RELAYED = "p2p-circuit"
REACH_S = 20.0
ACTS = ("where", "reach", "pull", "echo", "keep", "meet")


def _loopback(port: int) -> str:
    return f"/ip4/{HERE}/tcp/{port}"


class End:
    """A peer: gives to others, and pulls from them. ``role`` names its files."""

    def __init__(self, role: str, host: str = HERE) -> None:
        self.library = import_module("lattica")
        self.folder = Path(f"lattica-{role}").absolute()
        self.folder.mkdir()
        self.places = [f"/ip4/{host}/tcp/4001", f"/ip4/{host}/udp/4001/quic-v1"]
        self.peer: Any = None
        self.stub: Any = None

    def _built(
        self, places: list[str], bootstraps: list[str], relays: Sequence[str] = ()
    ) -> Any:
        made = self.library.Lattica.builder().with_listen_addrs(places)
        made = made.with_mdns(False).with_upnp(False).with_autonat(False)
        made = made.with_dcutr(bool(relays)).with_key_path(str(self.folder))
        made = made.with_storage_path(str(self.folder / "storage"))
        made = made.with_dht_db_path(str(self.folder / "dht")).with_protocol("/bench")
        made = made.with_relay_servers(list(relays)) if relays else made
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
        self.peer = self._built([_loopback(port)], [])
        self._kept = self._service()
        return f"/ip4/{HERE}/tcp/{port}/p2p/{self.peer.peer_id()}"

    def reach(self, where: str) -> bool:
        """Connect to who gives at ``where``."""
        self.peer = self._built([_loopback(0)], [where])
        self.stub = self._service().get_stub(where.rpartition("/")[2])
        why = self._heard(REACH_S)
        if why:
            raise ConnectionError(why)
        return True

    def _heard(self, patience_s: float) -> str:
        """Ask until there is an answer; return why there is none, "" if there is."""
        until_s = time.monotonic() + patience_s
        while True:
            try:
                return "" if self.stub.echo(b"here").result() == b"here" else "garbled"
            except Exception as error:  # noqa: BLE001 - whatever the library raises
                if time.monotonic() > until_s:
                    return str(error).partition("\\n")[0].strip('"')
                time.sleep(0.02)

    def keep(self, relays: list[str]) -> str:
        """Begin to answer, kept by relays; return how we are reached through them."""
        self.peer = self._built(self.places, [], relays)
        self._kept = self._service()
        until_s = time.monotonic() + REACH_S
        while not (
            found := [a for a in self.peer.get_visible_maddrs() if RELAYED in a]
        ):
            if time.monotonic() > until_s:
                raise ConnectionError("no relay keeps us")
            time.sleep(0.02)
        return str(found[0])

    def meet(
        self, relays: list[str], where: str, patience_s: float
    ) -> dict[str, float | str]:
        """Reach who is kept at ``where``; return the seconds to an answer, and the way.

        Lattica asks nothing through a relay: an answer has come directly.
        """
        began_s = time.perf_counter()
        self.peer = self._built(self.places, [where], relays)
        peer = where.rpartition("/")[2]
        self.stub = self._service().get_stub(peer)
        why = self._heard(patience_s)
        took_s = time.perf_counter() - began_s
        return {"way": "" if why else "direct", "took_s": took_s, "why": why}

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
    end = End(*sys.argv[1:])
    answer({do: getattr(end, do) for do in ACTS})
