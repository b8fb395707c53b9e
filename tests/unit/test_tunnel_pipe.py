"""One end of a tunnelled connection, told of by hand."""

import itertools

import pytest

from fedcore.errors import ProtocolError
from p2p.channel.pipe import (
    PIECE_BYTES,
    WINDOW_BYTES,
    Do,
    Key,
    Message,
    Pipe,
    read_message,
)
from tests.channel_ends import B


class Socket:
    """Takes ``room`` bytes, and gives what is in ``has``."""

    def __init__(self, room=1 << 30):
        self.room, self.got, self.has, self.shut = room, b"", b"", False

    def send(self, data):
        if not self.room:
            raise BlockingIOError
        part = bytes(data[: self.room])
        self.room -= len(part)
        self.got += part
        return len(part)

    def recv(self, size):
        part, self.has = self.has[:size], self.has[size:]
        return part

    def shutdown(self, _):
        self.shut = True


def pipe(room=1 << 30):
    said = []
    made = Pipe(Key(B.peer, True, 7), Socket(room), lambda _, m: said.append(m))
    made.ready = True
    made.sock.said = said
    return made


def data(offset, words):
    return Message(Do.DATA, False, 7, offset, words)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pieces_in_any_order_and_twice_are_written_once(order):
    far = pipe()
    pieces = [data(0, b"ab"), data(2, b"c"), Message(Do.END, False, 7, 3)]
    for i in (*order, *order):
        far.take(pieces[i])
        far.write()
    assert far.sock.got == b"abc"
    assert far.sock.shut
    assert far.shut
    assert not far.writes


def test_what_is_not_written_is_bounded_by_the_window():
    near, far = pipe(), pipe(room=10)
    near.sock.has = bytes(4 * WINDOW_BYTES)
    while near.reads:
        near.read()
    sent = sum(len(m.data) for m in near.sock.said)
    assert sent == WINDOW_BYTES
    for message in near.sock.said:
        far.take(message)
        far.write()
    assert far.sock.said == []
    with pytest.raises(ProtocolError, match="window"):
        far.take(data(WINDOW_BYTES, bytes(11)))
    far.sock.room = 1 << 18
    far.write()
    (room,) = far.sock.said
    assert (room.do, room.offset) == (Do.ROOM, (1 << 18) + 10)
    near.under_way = 0
    near.take(room)
    before = len(near.sock.said)
    while near.reads:
        near.read()
    assert sum(len(m.data) for m in near.sock.said[before:]) == room.offset


def test_an_end_is_told_once_and_known():
    near = pipe()
    near.read()
    assert [(m.do, m.offset) for m in near.sock.said] == [(Do.END, 0)]
    assert not near.reads
    assert not near.over
    near.end_known = True
    near.take(Message(Do.END, False, 7, 0))
    assert near.writes
    near.write()
    assert near.over


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([Message(Do.ROOM, False, 7, 1)], "taken more than was sent"),
        ([data(0, b"ab"), Message(Do.END, False, 7, 1)], "ends twice"),
        ([Message(Do.END, False, 7, 1), Message(Do.END, False, 7, 2)], "ends twice"),
        ([Message(Do.END, False, 7, 1), data(0, b"ab")], "beyond its end"),
        ([data(2 * i + 1, b"x") for i in range(65)], "too many gaps"),
        ([data(i + 1, bytes(PIECE_BYTES)) for i in range(9)], "too many gaps"),
    ],
)
def test_what_does_not_fit_is_refused(messages, reason):
    far = pipe()
    with pytest.raises(ProtocolError, match=reason):  # noqa: PT012 - the last one
        for message in messages:
            far.take(message)


@pytest.mark.parametrize(
    "bad",
    [
        Message(Do.DATA, True, 1, 0, b""),
        Message(Do.END, True, 1, 0, b"x"),
        Message(Do.OPEN, True, 1, 1, b"x"),
        Message(Do.OPEN, True, 1, 0, b"../x"),
        Message(Do.OPEN, True, 1, 0, b"\xff"),
        Message(Do.OPEN, True, 1, 0, b"x" * 5000),
        Message(Do.RESET, True, 1 << 63, 0),
        Message(5, True, 1),
        Message(Do.DATA, 2, 1, 0, b"x"),
        Message(Do.DATA, True, 1, 0, bytes(1 << 18)),
    ],
)
def test_messages_that_no_tunnel_sends(bad):
    with pytest.raises(ProtocolError):
        read_message(bad.encoded())
    with pytest.raises(ProtocolError):
        read_message(b"")
