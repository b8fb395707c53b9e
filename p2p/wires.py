"""The wires of a real node: libp2p to find and to signal, TLS channels for the rest.

As soon as there is a channel to a peer, all questions go through it. A question for
much data waits a moment for one.
"""

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel.caps import Caps
from p2p.channel.certificates import Credentials, peer_of_certificate
from p2p.channel.channel import channel
from p2p.channel.tunnel import Tunnel
from p2p.circuit import is_circuit
from p2p.driver import Driver
from p2p.later import Later
from p2p.libp2p.thread import MeshThread
from p2p.lines import Line, Lines
from p2p.machine import Ask, Down, HangUp, Tell, Up
from p2p.nat.effects import (
    Closed,
    Dial,
    Dialled,
    Narrow,
    NotDialled,
    NotOpened,
    Opened,
    Punch,
    UpBy,
)
from p2p.nat.listener import Listener
from p2p.nat.punch import Opening, open_socket
from p2p.serving import Service, asking, passed_on, telling
from p2p.transport import MAX_BODY_BYTES, Path

DIAL_S = 20.0
BULK_WAIT_S = 5.0  # how long a question for much data waits for a channel
RETIRE_S = 5.0  # how long a replaced channel ends what is under way
PUNCHES = 16  # at a time
TOLD = "/told"  # behind a topic: over libp2p, what expects no answer
Post = Callable[[Any], None]
log = logging.getLogger(__name__)


@dataclass
class NodeWires:
    """Implements ``p2p.driver.Wires``.

    Attributes:
        mesh: libp2p, running.
        listener: of the data port, running.
        me: what we show on channels.
        caps: of all channels together.
        rng: spreads attempts.
    """

    mesh: MeshThread
    listener: Listener
    me: Credentials
    caps: Caps
    rng: random.Random
    _driver: Driver | None = None
    _lines: Lines = field(default_factory=Lines)
    _waiting: dict[PeerId, list[tuple[Ask, "Future[bytes]"]]] = field(
        default_factory=dict
    )
    _lock: Lock = field(default_factory=Lock)  # over what waits

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(PUNCHES, "punch")
        self._later = Later()
        self.tunnel = Tunnel(self._ask_through)

    def attach(self, driver: Driver) -> None:
        """Give ``driver`` all that happens from now on, and answer with it."""
        self._driver = driver
        for topic in driver.machine.topics:
            self.mesh.serve(topic, asking(driver, topic))
            self.mesh.serve(topic + TOLD, telling(driver, topic))
        self.mesh.watch(self._changed)
        self.mesh.listen_elsewhere(self._lines.received_bytes)

    def close(self) -> None:
        """End all channels; libp2p and the listener are their owner's to close."""
        self.tunnel.close()
        self._later.close()
        open_now = self._lines.end()  # a punch that is under way shall open nothing
        self._pool.shutdown(wait=False, cancel_futures=True)
        for each in open_now:
            each.close("the node ends")

    def lines(self) -> Mapping[PeerId, Line]:
        """Return the data channel of each peer that is for everything."""
        return self._lines.first()

    def channels(self, peer: PeerId) -> int:
        """Return how many data channels to ``peer`` are open."""
        return len(self._lines.of(peer))

    def _all(self) -> Sequence[Line]:
        return [line for peer in self.lines() for line in self._lines.of(peer)]

    def move(self, hosts: Collection[str]) -> None:
        """Let go of connections that this machine, now at ``hosts``, has no more."""
        hosts = {*hosts, "127.0.0.1", "::1"}  # which no machine loses
        for line in self._all():
            if line.host.removeprefix("::ffff:") not in hosts:
                self._pool.submit(line.channel.close, "the network has changed")
        self.mesh.leave(hosts)

    def moved(self, peer: PeerId) -> tuple[int, int]:
        """Return the bytes sent to and received from ``peer``, which never shrink."""
        return self._lines.moved(peer)

    def ask(self, ask: Ask) -> "Future[bytes]":
        """See ``p2p.driver.Wires``."""
        if ask.bulk:
            return self._ask_much(ask)
        line = self._first(ask.peer)
        if line is None:
            return self.mesh.ask(ask.peer, ask.topic, ask.body, ask.timeout_s)
        return line.channel.ask(ask.topic, ask.body, ask.timeout_s)

    def _first(self, peer: PeerId) -> Line | None:
        return next(iter(self._lines.of(peer)), None)

    def _ask_much(self, ask: Ask) -> "Future[bytes]":
        asked = self._lines.ask_much(ask)
        if asked is None:
            return self._postponed(ask)
        future, narrow = asked
        if narrow and self._driver is not None:
            self._driver.post(Narrow(ask.peer))
        return future

    def tell(self, tell: Tell) -> None:
        """See ``p2p.driver.Wires``."""
        line = self._first(tell.peer)
        if line is not None:
            line.channel.tell(tell.topic, tell.body)
        elif len(tell.body) > MAX_BODY_BYTES:
            log.warning("%s: %d bytes are not told", tell.topic, len(tell.body))
        else:
            self.mesh.tell(tell.peer, tell.topic + TOLD, tell.body)

    def do(self, effect: object, post: Post) -> None:
        """Carry out ``Dial``, ``Punch`` and what the mesh wants ended."""
        match effect:
            case Dial():
                self._dial(effect, post)
            case Punch():
                self._pool.submit(self._punch, effect, post)
            case HangUp(peer, why):
                self._hang_up(peer, why)
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def _hang_up(self, peer: PeerId, why: str) -> None:
        self.mesh.disconnect(peer)
        for line in self._lines.of(peer):
            self._pool.submit(line.channel.close, why)

    def _ask_through(
        self, peer: PeerId, topic: str, body: bytes, timeout_s: float
    ) -> "Future[bytes]":
        """Ask on a data channel, and nowhere else: tunnels carry much."""
        line = self._first(peer)
        if line is not None:
            return line.channel.ask(topic, body, timeout_s)
        future: Future[bytes] = Future()
        future.set_exception(PeerLostError(f"there is no data channel to {peer}"))
        return future

    # Questions that wait for a channel

    def _postponed(self, ask: Ask) -> "Future[bytes]":
        """Keep a question for much data until there is a channel, or too long."""
        future: Future[bytes] = Future()
        with self._lock:
            self._waiting.setdefault(ask.peer, []).append((ask, future))
        wait_s = min(BULK_WAIT_S, ask.timeout_s / 2)
        self._later.after(wait_s, lambda: self._released(ask, future))
        if self._lines.of(ask.peer):  # since we looked
            self._flush(ask.peer)
        return future

    def _released(self, ask: Ask, future: "Future[bytes]") -> None:
        """Ask over libp2p what has waited too long."""
        with self._lock:
            waiting = self._waiting.get(ask.peer, [])
            if (ask, future) not in waiting:
                return
            waiting.remove((ask, future))
        answer = self.mesh.ask(ask.peer, ask.topic, ask.body, ask.timeout_s)
        answer.add_done_callback(partial(passed_on, future=future))

    def _flush(self, peer: PeerId) -> None:
        with self._lock:
            waiting = self._waiting.pop(peer, [])
        for ask, future in waiting:
            self.ask(ask).add_done_callback(partial(passed_on, future=future))

    # Libp2p

    def _changed(self, event: Up | Down) -> None:
        if self._driver is None:
            return
        if isinstance(event, Down):
            self._driver.post(event)
            return
        path = self.mesh.path(event.peer)
        by = (path.relay, path.address) if path else (None, None)
        self._driver.post(UpBy(event.peer, *by))

    def _dial(self, dial: Dial, post: Post) -> None:
        def ended(future: "Future[PeerId]") -> None:
            if future.cancelled() or future.exception() is not None:
                why = "given up" if future.cancelled() else str(future.exception())
                post(NotDialled(dial.peer, dial.ticket, why))
                return
            path = self.mesh.path(dial.peer)
            relay, place = (path.relay, _met_at(dial, path)) if path else (None, None)
            post(Dialled(dial.peer, dial.ticket, relay, place))

        self.mesh.connect(dial.addresses, DIAL_S, again=True).add_done_callback(ended)

    # Channels

    def _punch(self, punch: Punch, post: Post) -> None:
        """Open a channel. In a thread of the pool; blocks for seconds."""
        try:
            _check_owner(punch)
            opening = open_socket(punch, self.listener, self.rng)
            line, beside = self._line(punch, opening)
        except (PeerLostError, ProtocolError, OSError) as error:
            post(NotOpened(punch.peer, punch.ticket, str(error)))
            return
        post(Opened(punch.peer, punch.ticket, line.path, line.relay, beside))
        # Only now: it may have ended already, and that must not be heard first.
        line.channel.on_close(lambda why: self._closed(line, str(why)))
        self._flush(punch.peer)

    def _line(self, punch: Punch, opening: Opening) -> tuple[Line, bool]:
        driver = self._driver
        assert driver is not None  # noqa: S101 - effects come from a driver
        host = opening.sock.getsockname()[0]
        made = channel(
            opening.sock,
            self.me,
            punch.certificate,
            dialer=opening.dialer,
            serve=Service(driver, self.tunnel),
            caps=self.caps,
        )
        line = Line(made, opening.path, opening.relay, host)
        try:
            beside, replaced = self._lines.add(line, beside=punch.beside)
        except PeerLostError as error:
            made.close(str(error))
            raise
        for old in replaced:
            self._later.after(RETIRE_S, partial(self._retire, old))
        return line, beside

    def _retire(self, line: Line) -> None:
        self._pool.submit(line.channel.close, "replaced by a better one")

    def _closed(self, line: Line, why: str) -> None:
        if self._lines.drop(line) and self._driver is not None:
            self._driver.post(Closed(line.channel.peer, why))


def _met_at(dial: Dial, path: Path) -> str | None:
    """Return which of the addresses it was, as far as can be told."""
    through = path.kind == "relayed"
    fit = [a for a in dial.addresses if is_circuit(a) is through]
    met = [a for a in fit if through or a.startswith(f"{path.address}/")]
    return met[0] if met else None


def _check_owner(punch: Punch) -> None:
    if peer_of_certificate(punch.certificate) != punch.peer:
        raise ProtocolError(f"{punch.peer} offers the certificate of somebody else")
