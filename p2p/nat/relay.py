"""A blind relay: joins two peers that dialled out to it, and never reads a byte.

Both ends of a circuit show a ticket (``p2p.nat.grants``); what they then say to each
other is TLS from end to end. One thread serves all circuits. Everything is bounded:
silent connections, those that wait for their other end, circuits of all and of one
peer, bytes and seconds.
"""

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from p2p.nat.addresses import Address
from p2p.nat.circuit import READ, Circuit
from p2p.nat.grants import KNOCK_BYTES, PAIRED, Ticket, Warden, read_knock
from p2p.nat.ports import (
    BACKLOG,
    SCARCE_S,
    address_of,
    dropped,
    family_of,
    kept_alive,
    woken,
)
from p2p.nat.quota import Quota, Tally

_AT_ONCE = 64
_SWEEP_S = 0.2


@dataclass
class _Guest:
    """A connection that is not joined: silent, or waiting for the other end."""

    since_s: float
    said: bytes = b""
    ticket: Ticket | None = None
    dialer: bool = False


class SpliceRelay:
    """Serves circuits on one TCP port. A context manager.

    Args:
        warden: made the grants that pay for circuits.
        host: where to listen.
        port: the port; 0 for any free one.
        quota: what it gives at most.
        wall: seconds, for the expiry of tickets: the clock that made the grants.
    """

    def __init__(
        self,
        warden: Warden,
        host: str,
        port: int = 0,
        quota: Quota | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.warden, self.quota, self.wall = warden, quota or Quota(), wall
        family = family_of(Address(host, port))
        self._server = socket.create_server(
            (host, port), family=family, backlog=BACKLOG
        )
        self._server.setblocking(False)
        self.address = address_of(self._server.getsockname())
        self._tally = Tally()
        self._guests: dict[socket.socket, _Guest] = {}
        self._missing: dict[tuple[bytes, bytes, bool], socket.socket] = {}
        self._circuits: dict[Circuit, None] = {}
        self._spent: Counter[bytes] = Counter()
        self._period_s = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, READ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> "SpliceRelay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        woken(self._server)
        self._thread.join()
        for circuit in list(self._circuits):
            self._end(circuit, "relay stopped")
        for sock in [self._server, *self._guests]:
            sock.close()
        self._selector.close()

    def tally(self) -> Tally:
        """Return what has been done so far; a copy."""
        seen = self._tally
        ended, refused = Counter(seen.ended), Counter(seen.refused)
        counts = len(self._circuits), len(self._guests)
        return Tally(seen.opened, *counts, seen.bytes, ended, refused)

    def _run(self) -> None:
        sweep_s = 0.0
        while not self._stop.is_set():
            ready = self._selector.select(_SWEEP_S)
            now_s = time.monotonic()
            # Newcomers last: they push out who has not said, or not been heard, yet.
            for key, _ in sorted(ready, key=lambda at: at[0].fileobj is self._server):
                if isinstance(key.data, Circuit):
                    self._move(key.data, now_s)
                elif key.fileobj is self._server:
                    self._accept(now_s)
                elif isinstance(key.fileobj, socket.socket):
                    self._listen_to(key.fileobj, now_s)
            if now_s >= sweep_s:
                self._sweep(now_s)
                sweep_s = now_s + _SWEEP_S

    def _accept(self, now_s: float) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _place = self._server.accept()
            except BlockingIOError:
                return
            except OSError:  # gone again, or no descriptor is left
                self._make_room(now_s)
                self._stop.wait(SCARCE_S)
                return
            if len(self._guests) >= self.quota.waiting:
                self._make_room(now_s)
            sock.setblocking(False)
            self._guests[sock] = _Guest(now_s)
            self._selector.register(sock, READ)

    def _listen_to(self, sock: socket.socket, now_s: float) -> None:
        guest = self._guests.get(sock)
        if guest is None:  # joined, or refused, earlier in this turn
            return
        if guest.ticket is not None:  # says nothing before it is joined; so it left
            self._refuse(sock, "gone")
            return
        try:
            part = sock.recv(KNOCK_BYTES - len(guest.said))
        except BlockingIOError:
            return
        except OSError:
            part = b""
        guest.said += part
        if not part:
            self._refuse(sock, "gone")
        elif len(guest.said) == KNOCK_BYTES:
            self._admit(sock, guest, now_s)

    def _admit(self, sock: socket.socket, guest: _Guest, now_s: float) -> None:
        try:
            ticket, guest.dialer = read_knock(guest.said)
        except ProtocolError:
            self._refuse(sock, "no ticket")
            return
        if not self.warden.passes(ticket, self.wall()):
            self._refuse(sock, "ticket refused", b"x")
            return
        if self._spent[ticket.owner] >= self.quota.peer_bytes:
            self._refuse(sock, "quota used up", b"q")
            return
        guest.ticket, guest.since_s = ticket, now_s
        other = self._missing.pop((ticket.owner, ticket.token, not guest.dialer), None)
        if other is not None:
            self._join(sock, other, ticket, now_s)
            return
        place = (ticket.owner, ticket.token, guest.dialer)
        if place in self._missing:  # dialled anew; the older one is forgotten
            self._refuse(self._missing[place], "replaced")
        self._missing[place] = sock

    def _join(
        self, late: socket.socket, early: socket.socket, ticket: Ticket, now_s: float
    ) -> None:
        of_peer = sum(c.owner == ticket.owner for c in self._circuits)
        full = len(self._circuits) >= self.quota.circuits
        if full or of_peer >= self.quota.circuits_of_peer:
            self._refuse(late, "full", b"f")
            self._refuse(early, "full", b"f")
            return
        for sock in (late, early):
            self._selector.unregister(sock)
            del self._guests[sock]
        try:
            circuit = Circuit(ticket.owner, (late, early), now_s)
        except OSError:  # no descriptors are left for pipes
            dropped(late)
            dropped(early)
            self._tally.refused["no descriptors"] += 1
            return
        self._circuits[circuit] = None
        self._tally.opened += 1
        self._start(circuit)

    def _start(self, circuit: Circuit) -> None:
        try:
            for sock in circuit.ends:
                kept_alive(sock)
                sock.send(PAIRED)
        except OSError:
            self._end(circuit, "gone")
        else:
            circuit.watch(self._selector)

    def _move(self, circuit: Circuit, now_s: float) -> None:
        if circuit not in self._circuits:
            return
        try:
            count = circuit.move(now_s)
        except OSError:
            self._end(circuit, "gone")
            return
        self._tally.bytes += count
        self._spent[circuit.owner] += count
        why = "done" if circuit.done else self._overdrawn(circuit)
        if why:
            self._end(circuit, why)
        else:
            circuit.watch(self._selector)

    def _overdrawn(self, circuit: Circuit) -> str:
        if circuit.bytes > self.quota.circuit_bytes:
            return "bytes of a circuit"
        if self._spent[circuit.owner] > self.quota.peer_bytes:
            return "bytes of a peer"
        return ""

    def _sweep(self, now_s: float) -> None:
        """End what took too long; both tables are short."""
        quota = self.quota
        for circuit in list(self._circuits):
            if now_s - circuit.moved_s > quota.idle_s:
                self._end(circuit, "idle")
            elif now_s - circuit.since_s > quota.circuit_s:
                self._end(circuit, "time of a circuit")
        for sock, guest in list(self._guests.items()):
            limit_s = quota.waiting_s if guest.ticket else quota.knock_s
            if now_s - guest.since_s > limit_s:
                self._refuse(sock, "waited too long" if guest.ticket else "silent")
        if now_s - self._period_s > quota.period_s:
            self._spent.clear()
            self._period_s = now_s

    def _end(self, circuit: Circuit, why: str) -> None:
        self._circuits.pop(circuit, None)
        self._tally.ended[why] += 1
        circuit.close(self._selector)

    def _make_room(self, now_s: float) -> None:
        """Refuse the oldest that has said nothing, else the oldest of all."""
        for sock in [s for s, guest in self._guests.items() if guest.ticket is None]:
            self._listen_to(sock, now_s)  # it may have said it just now
            guest = self._guests.get(sock)
            if guest is None:
                return
            if guest.ticket is None:
                self._refuse(sock, "too many")
                return
        if self._guests:
            self._refuse(next(iter(self._guests)), "too many")

    def _refuse(self, sock: socket.socket, why: str, word: bytes = b"") -> None:
        guest = self._guests.pop(sock)
        if guest.ticket is not None:
            place = (guest.ticket.owner, guest.ticket.token, guest.dialer)
            if self._missing.get(place) is sock:
                del self._missing[place]
        self._selector.unregister(sock)
        self._tally.refused[why] += 1
        with suppress(OSError):
            sock.send(word)
        sock.close() if word else dropped(sock)
