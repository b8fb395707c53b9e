"""One end of a TCP connection that is carried through a channel.

What the local socket gives goes out in pieces that name their offset, so that they may
overtake each other, and one that comes twice does no harm. The other end says how far
it has written to its own socket; what it has not is bounded by a window.
"""

import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from fedcore.errors import ProtocolError
from fedcore.names import MAX_CHARS, PeerId, fault_of

PIECE_BYTES = 1 << 17
WINDOW_BYTES = 1 << 20  # under way in one direction of one connection
_ROOM_PARTS = 4  # room is told when such a part of the window was written
_UNDER_WAY = 32  # questions of one connection at a time
_APART = 64  # pieces that came before their turn
_HEAD = struct.Struct("<BBQQ")
_MOST = 1 << 62


class Do(IntEnum):
    """What a message of a tunnel wants done."""

    OPEN = 0
    DATA = 1
    END = 2  # no more bytes follow in this direction; ``offset`` of them came
    ROOM = 3  # ``offset`` bytes have been written to the local socket
    RESET = 4


class Message(NamedTuple):
    """One message. ``mine``: whoever sends it has opened the connection."""

    do: Do
    mine: bool
    number: int
    offset: int = 0
    data: bytes = b""

    def encoded(self) -> bytes:
        """Return the bytes that ``read_message`` reads."""
        head = _HEAD.pack(self.do, self.mine, self.number, self.offset)
        return head + self.data

    @property
    def name(self) -> str:
        """The service that OPEN asks for."""
        return self.data.decode()


def read_message(body: bytes) -> Message:
    """Return the message in ``body``.

    Raises:
        ProtocolError: it is none.
    """
    if not _HEAD.size <= len(body) <= _HEAD.size + PIECE_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes for a tunnel")
    do, mine, number, offset = _HEAD.unpack_from(body)
    if do > Do.RESET or mine > 1 or number > _MOST or offset > _MOST:
        raise ProtocolError("a message that no tunnel sends")
    message = Message(Do(do), bool(mine), number, offset, body[_HEAD.size :])
    _check(message)
    return message


def _check(message: Message) -> None:
    do, data = message.do, message.data
    if do in (Do.OPEN, Do.RESET) and message.offset:
        raise ProtocolError(f"{do.name} with an offset")
    if bool(data) is not (do in (Do.OPEN, Do.DATA)):
        raise ProtocolError(f"{do.name} with {len(data)} bytes")
    if do is Do.OPEN:
        check_name(data)


def check_name(raw: bytes) -> None:
    """Raise ProtocolError if ``raw`` is not the name of a service in UTF-8."""
    try:
        wrong = fault_of(raw.decode()) if len(raw) <= 4 * MAX_CHARS else "is too long"
    except UnicodeDecodeError:
        wrong = "is not UTF-8"
    if wrong is not None:
        raise ProtocolError(f"the name of a service {wrong}")


class Key(NamedTuple):
    """Names a connection at this end. ``mine``: it was opened here."""

    peer: PeerId
    mine: bool
    number: int


@dataclass(slots=True, eq=False)
class Pipe:
    """One end. Used by one thread.

    Attributes:
        ready: the socket is connected, and the other end is open too.
        under_way: messages with data that the other end has not confirmed.
        ended: the local socket has no more to give, and the other end was told.
        end_known: the other end has taken note of it.
        shut: the other end has no more to give, and the local socket was told.
        opening: the question of the other end that opened this one.
    """

    key: Key
    sock: socket.socket
    send: Callable[["Pipe", Message], None]
    ready: bool = False
    under_way: int = 0
    ended: bool = False
    end_known: bool = False
    shut: bool = False
    opening: "Future[bytes] | None" = None
    _sent: int = 0
    _room: int = WINDOW_BYTES  # how far we may send
    _taken: int = 0  # bytes from the other end that are here without a gap
    _written: int = 0
    _told: int = 0  # what of it the other end was told
    _buffer: bytearray = field(default_factory=bytearray)
    _apart: dict[int, bytes] = field(default_factory=dict)  # came before their turn
    _end_at: int | None = None

    @property
    def over(self) -> bool:
        """Whether both directions have ended well."""
        return self.shut and self.ended and self.end_known

    @property
    def end_told(self) -> bool:
        """Whether the other end has said where it ends."""
        return self._end_at is not None

    @property
    def reads(self) -> bool:
        """Whether to take more from the local socket."""
        room = self._sent < self._room and self.under_way < _UNDER_WAY
        return self.ready and not self.ended and room

    @property
    def writes(self) -> bool:
        """Whether something waits for the local socket."""
        return bool(self._buffer) or (self._end_at == self._written and not self.shut)

    def read(self) -> None:
        """Take what the local socket has, and send it.

        Raises:
            OSError: the socket broke.
        """
        try:
            data = self.sock.recv(min(PIECE_BYTES, self._room - self._sent))
        except BlockingIOError:
            return
        self.ended = not data
        self._say(Do.DATA if data else Do.END, self._sent, data)
        self._sent += len(data)

    def _say(self, do: Do, offset: int, data: bytes = b"") -> None:
        self.under_way += do is Do.DATA
        self.send(self, Message(do, self.key.mine, self.key.number, offset, data))

    def tell_room(self) -> None:
        """Say how far we have written; again does no harm."""
        self._told = self._written
        self._say(Do.ROOM, self._written)

    def take(self, message: Message) -> None:
        """Take DATA, END or ROOM from the other end; what comes again does no harm.

        Raises:
            ProtocolError: it does not fit to what came before.
        """
        if message.do is Do.ROOM:
            if message.offset > self._sent:
                raise ProtocolError("a tunnel that has taken more than was sent")
            self._room = max(self._room, message.offset + WINDOW_BYTES)
        elif message.do is Do.END:
            short = message.offset < max([self._taken, *self._apart])
            if short or self._end_at not in (None, message.offset):
                raise ProtocolError("a tunnel that ends twice")
            self._end_at = message.offset
        elif message.offset >= self._taken:
            self._take_data(message.offset, message.data)

    def _take_data(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        most = self._written + WINDOW_BYTES
        if end > (most if self._end_at is None else self._end_at):
            raise ProtocolError("a tunnel's bytes beyond its end or window")
        self._apart[offset] = data
        apart_bytes = sum(map(len, self._apart.values()))
        if len(self._apart) > _APART or apart_bytes > WINDOW_BYTES:
            raise ProtocolError("a tunnel's bytes with too many gaps")
        while self._taken in self._apart:
            data = self._apart.pop(self._taken)
            self._buffer += data
            self._taken += len(data)

    def write(self) -> None:
        """Give the local socket what is next, as far as it takes it.

        Raises:
            OSError: the socket broke.
        """
        while self._buffer:
            with memoryview(self._buffer) as whole, whole[:PIECE_BYTES] as part:
                try:
                    count = self.sock.send(part)
                except BlockingIOError:
                    break
            del self._buffer[:count]
            self._written += count
        if self._written - self._told >= WINDOW_BYTES // _ROOM_PARTS:
            self.tell_room()
        if self._end_at == self._written and not self.shut:
            self.shut = True
            self.sock.shutdown(socket.SHUT_WR)
