"""One connection on its way to become a data connection, as a small state machine.

``DIALLING`` (the TCP handshake), ``KNOCKING`` (only through a relay: until it has
joined us), ``GREETING`` (until the other side said its hello), ``GOOD``, ``PICKED``
(only the dialler's: until the other side confirmed).
"""

import os
import selectors
import socket
from dataclasses import dataclass
from enum import Enum

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.nat.addresses import Address
from p2p.nat.effects import Splice
from p2p.nat.grants import PAIRED, REFUSALS, knock
from p2p.nat.hello import HELLO_BYTES, PICK, TAKEN, hello, read_hello
from p2p.nat.ports import bound, family_of

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MOST_TRIES = 12
SPLICED = 9  # rank of a spliced line, after all direct ones


class Phase(Enum):
    """How far a line has come."""

    DIALLING = 0
    KNOCKING = 1
    GREETING = 2
    GOOD = 3
    PICKED = 4
    TAKEN = 5


@dataclass(eq=False)
class Target:
    """Somewhere to dial, again and again until it answers or is given up.

    Attributes:
        address: where.
        rank: the lower, the better the way.
        path: the way in words.
        splice: the relay, if it is one.
        tries: how many tries are left.
        next_s: when the next one is due.
    """

    address: Address
    rank: int
    path: str
    splice: Splice | None = None
    tries: int = MOST_TRIES
    next_s: float = 0.0

    @property
    def relay(self) -> PeerId | None:
        return self.splice.relay if self.splice else None


@dataclass(eq=False)
class Line:
    """One connection; see the module.

    Attributes:
        sock: non-blocking.
        target: where it leads.
        token: what both sides say first.
        dialer: whether we pick.
        phase: how far it has come.
        since_s: when it came so far.
        said: what the other side has said of its hello.
    """

    sock: socket.socket
    target: Target
    token: bytes
    dialer: bool
    phase: Phase
    since_s: float
    said: bytes = b""

    @property
    def events(self) -> int:
        """What to wait for."""
        return WRITE if self.phase is Phase.DIALLING else READ

    def advance(self, now_s: float) -> None:
        """Do what the socket is ready for.

        Raises:
            OSError: the connection failed, or was refused.
            ProtocolError: the other side is not who was announced.
        """
        before = self.phase
        step = {
            Phase.DIALLING: self._connected,
            Phase.KNOCKING: self._joined,
            Phase.GREETING: self._greeted,
            Phase.GOOD: self._chosen,
            Phase.PICKED: self._confirmed,
        }[before]
        step()
        if self.phase is not before:
            self.since_s = now_s

    def pick(self, now_s: float) -> None:
        """Choose this line; the other side is to confirm.

        Raises:
            OSError: it is gone.
        """
        self.sock.send(PICK)
        self.phase, self.since_s = Phase.PICKED, now_s

    def _connected(self) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        splice = self.target.splice
        if splice is not None:
            self.sock.send(knock(splice.leave, dialer=self.dialer))
            self.phase = Phase.KNOCKING
        else:
            self._greet()

    def _greet(self) -> None:
        self.sock.send(hello(self.token, dialer=self.dialer))
        self.phase = Phase.GREETING

    def _joined(self) -> None:
        word = self._read(1)
        if word == PAIRED:
            self._greet()
        elif word:
            raise ProtocolError(f"the relay says: {REFUSALS.get(word, 'nonsense')}")

    def _greeted(self) -> None:
        self.said += self._read(HELLO_BYTES - len(self.said))
        if len(self.said) < HELLO_BYTES:
            return
        token, dialer = read_hello(self.said)
        if token != self.token or dialer == self.dialer:
            raise ProtocolError("somebody else is at this address")
        self.phase = Phase.GOOD

    def _chosen(self) -> None:
        word = self._read(1)
        if self.dialer or word not in (b"", PICK):
            raise ProtocolError("a word out of turn")
        if word:
            self.sock.send(TAKEN)
            self.phase = Phase.TAKEN

    def _confirmed(self) -> None:
        word = self._read(1)
        if word not in (b"", TAKEN):
            raise ProtocolError("a word out of turn")
        if word:
            self.phase = Phase.TAKEN

    def _read(self, count: int) -> bytes:
        """Return at most ``count`` bytes, never one that belongs to the next layer."""
        try:
            data = self.sock.recv(count)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionResetError("the other side hung up")
        return data


def dial(target: Target, port: int) -> socket.socket:
    """Return a socket on its way to ``target``, from the data port if it is a peer.

    Raises:
        OSError: it cannot even begin.
    """
    sock = bound(family_of(target.address), 0 if target.splice else port)
    try:
        sock.connect(target.address)
    except BlockingIOError:
        return sock
    except OSError:
        sock.close()
        raise
    return sock
