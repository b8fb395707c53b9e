"""What moving bytes between two peers costs: our channel, raw TLS, a libp2p stream.

Two processes on one machine; ways take turns in one run, and the cost is the CPU time
of the busier process, which other programs disturb less than the time on a clock.
"""

import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from fedcore.errors import ConfigError, FedError
from p2p.channel.bundle import Bundle
from p2p.channel.caps import Caps
from p2p.channel.channel import Channel
from sims.bench.frame import Options, Row, middle, skipped, versus
from sims.bench.peers.longway import ROUND_TRIP_S, LongWay
from sims.bench.peers.pipes import (
    ECHO,
    FAR,
    GIVE,
    NEAR_KEY,
    WORD,
    cpu_s,
    fill,
    open_channel,
    open_tls,
)

ROOT = Path(__file__).parents[2]
MEGA = 1_000_000
SIZE_MB, LIBP2P_MB = 100, 10
ECHO_BYTES = 64
WAIT_S = 120.0
PIECE_BYTES = 1 << 20  # a message of libp2p
LONG_MB = 20
CAP_MB_S, CAPPED = 4, 4  # a cap, and the channels that share it


class Far:
    """A process of another end; ``where`` it can be reached."""

    def __init__(self, *words: str, module: str = "sims.bench.peers.pipes") -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.where = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - a pipe, as asked for
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError("the far end did not start")
        return line.strip()

    def cpu_s(self) -> float:
        """Return the CPU time it has used."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe, as asked for
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class _Way(Protocol):
    """One way to get bytes from a far end."""

    def pull(self, into: memoryview) -> None: ...

    def echo(self, body: bytes) -> None: ...

    def close(self) -> None: ...


class _OurWay:
    def __init__(self, where: str) -> None:
        sock = socket.create_connection(("127.0.0.1", int(where)))
        self._channel = open_channel(sock, near=True)

    def pull(self, into: memoryview) -> None:
        self._channel.ask(GIVE, b"%d" % len(into), WAIT_S, into).result()

    def echo(self, body: bytes) -> None:
        self._channel.ask(ECHO, body, WAIT_S).result()

    def close(self) -> None:
        self._channel.close()


class _RawWay:
    def __init__(self, where: str) -> None:
        sock = socket.create_connection(("127.0.0.1", int(where)))
        self._line = open_tls(sock, near=True)

    def pull(self, into: memoryview) -> None:
        self._line.sendall(WORD.pack(len(into)))
        fill(self._line, into)

    def echo(self, body: bytes) -> None:
        self._line.sendall(WORD.pack(-len(body)) + body)
        fill(self._line, memoryview(bytearray(len(body))))

    def close(self) -> None:
        self._line.close()


class _MeshWay:
    """Four questions under way at a time, each answered with one whole message."""

    def __init__(self, where: str) -> None:
        from p2p.libp2p.config import Libp2pConfig
        from p2p.libp2p.thread import MeshThread

        config = Libp2pConfig(NEAR_KEY, ["/ip4/127.0.0.1/tcp/0"])
        self._mesh = MeshThread(config).start()
        self._mesh.connect([where], 10.0).result(20.0)

    def pull(self, into: memoryview) -> None:
        under_way: deque[tuple[int, Future[bytes]]] = deque()
        for at in range(0, len(into), PIECE_BYTES):
            body = b"%d" % min(PIECE_BYTES, len(into) - at)
            under_way.append((at, self._mesh.ask(FAR.peer, GIVE, body, WAIT_S)))
            if len(under_way) == 4:
                self._take(into, *under_way.popleft())
        for each in under_way:
            self._take(into, *each)

    def _take(self, into: memoryview, at: int, answer: "Future[bytes]") -> None:
        data = answer.result()
        into[at : at + len(data)] = data

    def echo(self, body: bytes) -> None:
        self._mesh.ask(FAR.peer, ECHO, body, WAIT_S).result()

    def close(self) -> None:
        self._mesh.close()


WAYS: dict[str, tuple[Callable[[str], _Way], int]] = {
    "channel": (_OurWay, SIZE_MB),
    "tls": (_RawWay, SIZE_MB),
    "libp2p": (_MeshWay, LIBP2P_MB),
}
NAMES = {"tls": "raw TLS socket", "libp2p": "libp2p stream"}


class _Race:
    """One way with its far end, and what it was seen to cost."""

    def __init__(self, name: str) -> None:
        opened, size_mb = WAYS[name]
        self._far = Far(name)
        try:
            self._way = opened(self._far.where)
        except BaseException:
            self._far.close()
            raise
        self._into = memoryview(bytearray(size_mb * MEGA))
        self._gb = size_mb / 1000
        self.cpu_s: list[float] = []  # for a GB, of the busier side
        self.trips_ms: list[float] = []

    def pull(self) -> None:
        """Move the bytes once."""
        near_s, far_s = cpu_s(), self._far.cpu_s()
        self._way.pull(self._into)
        used_s = max(cpu_s() - near_s, self._far.cpu_s() - far_s)
        self.cpu_s.append(used_s / self._gb)

    def echo(self) -> None:
        """Measure one round trip."""
        began_s = time.perf_counter()
        self._way.echo(bytes(ECHO_BYTES))
        self.trips_ms.append(1000 * (time.perf_counter() - began_s))

    def close(self) -> None:
        """End both sides."""
        self._way.close()
        self._far.close()


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    turns = 3 if options.quick else 11
    options.say("a channel, a raw TLS socket and a libp2p stream in turn")
    yield from _compared(_raced(turns))
    options.say("one and four connections over a long way")
    yield _long_row(1 if options.quick else 5)
    options.say("a cap that several channels share")
    yield _cap_row(2.0 if options.quick else 5.0)


def _raced(turns: int) -> dict[str, _Race | str]:
    """Let all ways run in turn; a way that does not run is told as the reason."""
    races: dict[str, _Race | str] = {}
    for name in WAYS:
        try:
            races[name] = _Race(name)
        except (FedError, OSError, ImportError) as error:
            races[name] = str(error)
    running = [race for race in races.values() if isinstance(race, _Race)]
    try:
        for race in running * (turns + 1):
            race.pull()
        for race in running * turns:  # in a row: libp2p works on in the background
            for _ in range(100):
                race.echo()
    finally:
        for race in running:
            race.close()
    return races


def _compared(races: dict[str, _Race | str]) -> Iterator[Row]:
    ours = races["channel"]
    if isinstance(ours, str):
        raise ConfigError(f"the channel does not run: {ours}")
    for name, other in races.items():
        if name == "channel":
            continue
        bulk, small = f"{SIZE_MB} MB to one peer", f"{ECHO_BYTES} B there and back"
        title = f"channel vs {NAMES[name]}"
        if isinstance(other, str):
            yield skipped(title, bulk, "CPU-s/GB", other)
            continue
        mine, its = (middle(race.cpu_s[1:]) for race in (ours, other))
        note = f"{1000 / mine:.0f} against {1000 / its:.0f} MB per CPU-second"
        yield versus(title, bulk, mine, its, "CPU-s/GB", note)
        yield versus(title, small, middle(ours.trips_ms), middle(other.trips_ms), "ms")


def _long_row(turns: int) -> Row:
    """Return what four connections gain where one is held back by its window."""
    far = Far("channel")
    way = LongWay(int(far.where))
    try:
        took = {count: middle(_fetched(way.port, count, turns)) for count in (1, 4)}
    finally:
        way.close()
        far.close()
    work = f"{LONG_MB} MB, {1000 * ROUND_TRIP_S:.0f} ms, 1 MiB window"
    return versus("4 connections vs 1", work, took[4], took[1], "s")


def _fetched(port: int, count: int, turns: int) -> list[float]:
    """Return the seconds that fetching took over ``count`` connections."""
    channels = _channels(port, count)
    into, took = memoryview(bytearray(LONG_MB * MEGA)), []
    for _ in range(turns):
        began_s = time.perf_counter()
        bundle = Bundle(channels)
        bundle.fetch(GIVE, lambda _, size: b"%d" % size, into, WAIT_S, 1 << 20).result()
        took.append(time.perf_counter() - began_s)
    for each in channels:
        each.close()
    return took


def _channels(port: int, count: int, caps: Caps | None = None) -> list[Channel]:
    dialled = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    return [open_channel(sock, near=True, caps=caps) for sock in dialled]


def _cap_row(seconds: float) -> Row:
    """Return at what rate a node receives under a cap, with more to come."""
    far = Far("channel")
    caps = Caps(down_bytes_s=CAP_MB_S * MEGA)
    channels = _channels(int(far.where), CAPPED, caps)
    into = [memoryview(bytearray(50 * MEGA)) for _ in channels]
    try:
        for channel, buffer in zip(channels, into, strict=True):
            channel.ask(GIVE, b"%d" % len(buffer), WAIT_S, buffer)
        began, before = time.perf_counter(), _received(channels)
        time.sleep(seconds)
        rate = (_received(channels) - before) / (time.perf_counter() - began) / MEGA
    finally:
        far.close()
        for channel in channels:
            channel.close()
    note = f"{100 * (rate / CAP_MB_S - 1):+.1f} % over {seconds:g} s"
    work = f"{CAPPED} channels, {CAP_MB_S} MB/s together"
    return versus("cap kept vs cap set", work, rate, float(CAP_MB_S), "MB/s", note)


def _received(channels: Sequence[Channel]) -> int:
    return sum(channel.received_bytes for channel in channels)
