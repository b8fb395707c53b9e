"""The other side as a process of its own: ``fedcore split serve`` on this machine."""

import select
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, cast

from clients.split.channel import Channel
from clients.split.slow import Net, SlowChannel
from clients.split.sockets import tcp
from fedcore.closing import Closing
from fedcore.errors import PeerLostError

START_S = 120.0  # it imports torch first
LISTENING = "listening at "
UNTIL_EOF = "--until-eof"


class Far(Closing):
    """A running server; it ends with its block, and with this process if that dies.

    Args:
        words: what follows ``fedcore split serve`` on its command line.
        net: the link that both sides play, each for what it sends.

    Raises:
        PeerLostError: it did not start.

    Attributes:
        port: where it listens, on this machine.
    """

    def __init__(self, words: Sequence[str], net: Net) -> None:
        self._net = net
        line = [sys.executable, "-m", "fedcore.cli", "split", "serve", *words]
        line += ["--port", "0", "--delay-ms", repr(1e3 * net.delay_s)]
        line += ["--mbit", repr(8e-6 * net.bytes_per_s), UNTIL_EOF]
        pipe = subprocess.PIPE  # its input ends when we do, however we end
        self._process = subprocess.Popen(line, stdin=pipe, stdout=pipe)  # noqa: S603
        try:
            self.port = self._heard()
        except PeerLostError:
            self.close()
            raise

    def _heard(self) -> int:
        out = cast(IO[bytes], self._process.stdout)
        ready = select.select([out], [], [], START_S)[0]
        told = out.readline().decode() if ready else ""
        if not told.startswith(LISTENING):
            raise PeerLostError("the server did not start; see what it said above")
        return int(told.rpartition(":")[2])

    def dial(self) -> Channel:
        """Return a channel to it, through the link."""
        return SlowChannel(tcp("127.0.0.1", self.port)(), self._net)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        cast(IO[bytes], self._process.stdin).close()
        cast(IO[bytes], self._process.stdout).close()
