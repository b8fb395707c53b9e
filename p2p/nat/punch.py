"""Open one data connection to a peer that does the same at this moment.

Every candidate is dialled from the data port, again and again for a few seconds, so
that both routers see a connection that went out; TCP joins two that cross. Relays
that would splice are asked at the same time. What works first is not what is taken:
the dialler picks the best line that works within a moment, the other side follows.
"""

import errno
import random
import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.nat.addresses import KINDS, Address, Candidate, ip_of, is_private
from p2p.nat.effects import Punch
from p2p.nat.lines import MOST_TRIES, SPLICED, Line, Phase, Target, dial
from p2p.nat.listener import Arrivals, Listener
from p2p.nat.ports import dropped, kept_alive, remote

SAME_NETWORK = "direct (same network)"
PUBLIC = "direct (public address)"
PUNCHED = "direct (punched)"


@dataclass(frozen=True)
class Pace:
    """How a punch spends its time, in seconds.

    Attributes:
        whole_s: longest time of all.
        try_s: longest time of one try of an address. The system repeats its first
            packet meanwhile; a new try would begin with other sequence numbers,
            which routers that remember the old ones take for a fault.
        again_s: pause before the next try of the same address.
        settle_s: wait for a better line after the first one works.
        confirm_s: longest wait for the other side's confirmation.
    """

    whole_s: float = 8.0
    try_s: float = 3.4
    again_s: float = 0.1
    settle_s: float = 0.05
    confirm_s: float = 2.0


@dataclass(frozen=True)
class Opening:
    """A connected socket, blocking, whose next byte belongs to the caller.

    Attributes:
        sock: the socket.
        dialer: whether we are the TLS client.
        path: the way in words.
        relay: who splices it; None when it is direct.
    """

    sock: socket.socket
    dialer: bool
    path: str
    relay: PeerId | None


def open_socket(
    punch: Punch, listener: Listener, rng: random.Random, pace: Pace | None = None
) -> Opening:
    """Return the connection that ``punch`` asks for. Blocks for ``pace.whole_s``.

    Args:
        punch: what signalling agreed on.
        listener: of our data port.
        rng: spreads the tries of both sides.
        pace: how long to try.

    Raises:
        PeerLostError: nothing worked; says what was tried.
        ProtocolError: the token is in use.
    """
    arrivals = listener.expect(punch.token, dialer=punch.dialer)
    race = _Race(punch, listener.port, arrivals, rng, pace or Pace())
    try:
        return race.run()
    finally:
        race.close()
        listener.forget(punch.token)


class _Race:
    """All lines of one punch, in the caller's thread."""

    def __init__(
        self,
        punch: Punch,
        port: int,
        arrivals: Arrivals,
        rng: random.Random,
        pace: Pace,
    ) -> None:
        self.punch, self.port, self.arrivals = punch, port, arrivals
        self.rng, self.pace = rng, pace
        self.targets = targets_of(punch)
        self.idle = list(self.targets)  # nobody dials them at this moment
        self.lines: list[Line] = []
        self.faults: dict[str, str] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(arrivals.bell[0], selectors.EVENT_READ)
        self.start_s = self.first_s = time.monotonic()

    def run(self) -> Opening:
        while (now_s := time.monotonic()) < self.start_s + self.pace.whole_s:
            self._dial_due(now_s)
            self._pick(now_s)
            for key, _ in self.selector.select(0.02):
                if isinstance(key.data, Line):
                    self._advance(key.data, time.monotonic())
            self._welcome(time.monotonic())
            self._drop_slow(time.monotonic())
            for line in self.lines:
                if line.phase is Phase.TAKEN:
                    return self._opening(line)
        raise PeerLostError(f"no way to {self.punch.peer}: {self._story()}")

    def close(self) -> None:
        for line in list(self.lines):
            self._remove(line)
        self.selector.close()

    def _story(self) -> str:
        tried = ", ".join(f"{place} {why}" for place, why in self.faults.items())
        return tried or "the peer offered no address that may be dialled"

    def _dial_due(self, now_s: float) -> None:
        for target in [t for t in self.idle if t.next_s <= now_s and t.tries]:
            try:
                # From the data port there is a connection to this place already.
                sock = dial(target, 0 if self.punch.beside else self.port)
            except OSError as error:
                # What the other side has half opened is in the way for a moment.
                target.tries -= error.errno != errno.EADDRNOTAVAIL
                self._again(target, now_s, error)
                continue
            target.tries -= 1
            self.idle.remove(target)
            self._add(sock, target, Phase.DIALLING, now_s)

    def _add(self, sock: socket.socket, to: Target, phase: Phase, now_s: float) -> None:
        line = Line(sock, to, self.punch.token, self.punch.dialer, phase, now_s)
        self.lines.append(line)
        self.selector.register(sock, line.events, line)

    def _again(self, target: Target, now_s: float, error: Exception) -> None:
        words = getattr(error, "strerror", None) or str(error) or "was silent"
        self.faults[str(target.address)] = words
        spread = self.rng.uniform(0.5, 1.5)
        slower = 1 + (MOST_TRIES - target.tries) / 4
        target.next_s = now_s + self.pace.again_s * spread * slower

    def _advance(self, line: Line, now_s: float) -> None:
        if line not in self.lines:
            return
        before = line.events
        try:
            line.advance(now_s)
        except (OSError, ProtocolError) as error:
            self._failed(line, now_s, error)
            return
        if line.events != before:
            self.selector.modify(line.sock, line.events, line)

    def _failed(self, line: Line, now_s: float, error: Exception) -> None:
        self._remove(line)
        if line.phase is Phase.KNOCKING and isinstance(error, ProtocolError):
            line.target.tries = 0  # the relay has said no
        if line.target in self.targets:
            self._again(line.target, now_s, error)
            self.idle.append(line.target)

    def _remove(self, line: Line) -> None:
        self.lines.remove(line)
        self.selector.unregister(line.sock)
        dropped(line.sock)

    def _welcome(self, now_s: float) -> None:
        """Take what the listener has recognised; its hello is said already."""
        with suppress(OSError):
            self.arrivals.bell[0].setblocking(False)
            self.arrivals.bell[0].recv(64)
        while not self.arrivals.sockets.empty():
            sock = self.arrivals.sockets.get_nowait()
            place = remote(sock)
            if place is None:
                sock.close()
            else:
                self._add(sock, target_of(place, self.punch), Phase.GOOD, now_s)

    def _drop_slow(self, now_s: float) -> None:
        for line in list(self.lines):
            if now_s - line.since_s > self._patience_s(line):
                self._failed(line, now_s, TimeoutError("was silent"))

    def _patience_s(self, line: Line) -> float:
        if line.phase is Phase.DIALLING:
            return self.pace.try_s
        quick = line.phase in (Phase.GREETING, Phase.PICKED)
        return self.pace.confirm_s if quick else self.pace.whole_s

    def _pick(self, now_s: float) -> None:
        """As the dialler, choose the best good line, once no better is to be hoped."""
        good = [line for line in self.lines if line.phase is Phase.GOOD]
        picked = any(line.phase is Phase.PICKED for line in self.lines)
        if not self.punch.dialer or picked or not good:
            self.first_s = self.first_s if good else now_s
            return
        best = min(good, key=lambda line: line.target.rank)
        if now_s - self.first_s < self._worth_waiting_s(best):
            return
        try:
            best.pick(now_s)
        except OSError as error:
            self._failed(best, now_s, error)

    def _worth_waiting_s(self, best: Line) -> float:
        """Return how long a line waits, from the first good one on, for a better."""
        hopes = [t for t in self.targets if t.rank < best.target.rank and t.tries]
        if not hopes:
            return 0.0
        if best.target.rank < SPLICED:
            return self.pace.settle_s
        return self.punch.patience_s - (self.first_s - self.start_s)

    def _opening(self, line: Line) -> Opening:
        self.lines.remove(line)
        self.selector.unregister(line.sock)
        line.sock.setblocking(True)
        kept_alive(line.sock)
        to = line.target
        return Opening(line.sock, self.punch.dialer, to.path, to.relay)


def targets_of(punch: Punch) -> list[Target]:
    """Return what to dial: the candidates, and the relays that would splice."""
    direct = [_direct(c, punch.mine) for c in punch.candidates]
    spliced = [
        Target(s.address, SPLICED, f"relayed by {s.relay}", s) for s in punch.splices
    ]
    return direct + spliced


def target_of(place: Address, punch: Punch) -> Target:
    """Return what a connection from ``place`` is: a candidate, or one like it."""
    for candidate in punch.candidates:
        if candidate.address == place:
            return _direct(candidate, punch.mine)
    ip = ip_of(place.host)
    near = is_private(ip) or ip.is_loopback
    return _direct(Candidate("lan" if near else "observed", place), punch.mine)


def _direct(candidate: Candidate, mine: tuple[Candidate, ...]) -> Target:
    rank = KINDS.index(candidate.kind)
    ways = {candidate.kind, *(c.kind for c in mine)}
    if candidate.kind == "lan":
        path = SAME_NETWORK
    else:
        path = PUBLIC if ways & {"public", "mapped"} else PUNCHED
    return Target(candidate.address, rank, path)
