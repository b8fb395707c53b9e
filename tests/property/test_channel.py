"""Laws of the frames and of the conversation, for any pieces and any bytes."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedcore.errors import PeerLostError, ProtocolError
from p2p.channel.asking import Asked, Reply
from p2p.channel.frames import (
    HEAD,
    HEAD_BYTES,
    Kind,
    frame,
    read_head,
    topic_bytes,
    topic_of,
    words_bytes,
    words_of,
)
from p2p.channel.limits import Limits
from p2p.channel.outbox import Sending, plain
from p2p.channel.pipe import Message, read_message
from p2p.channel.talk import Talk

LIMITS = Limits(
    part_bytes=1024,
    asks=4,
    ask_bytes=1 << 13,
    answer_bytes=1 << 14,
    held_bytes=1 << 16,
    arriving_bytes=1 << 15,
    window_bytes=1 << 12,
)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Side:
    """One side: a talk, the bytes on their way to it, and what it was told."""

    def __init__(self):
        self.talk, self.wire = Talk(LIMITS, 0.0), bytearray()
        self.talk.begin(LIMITS.window_bytes)
        self.told = []

    def leave(self, most):
        """Return the next frames, of about ``most`` bytes."""
        out, data = self.talk.out, bytearray()
        self.talk.answering.report()
        self.talk.asking.admit()
        owed = self.talk.owed(LIMITS.window_bytes)
        if owed:
            self.talk.grant(owed)
        while len(data) < most:
            if out.control:
                data += out.control.popleft()
            elif (part := out.next(LIMITS.part_bytes)) is not None:
                data += part.head + bytes(part.body)
                if part.last is not None:
                    self.talk.answering.sent(part.last)
            else:
                break
        return data

    def arrive(self, count):
        """Let at most ``count`` bytes of what is on its way arrive."""
        want = self.talk.want()
        assert len(want) > 0
        count = min(count, len(want), len(self.wire))
        want[:count] = self.wire[:count]
        del self.wire[:count]
        if count:
            self.talk.took(count, 0.0)

    def serve(self, rng):
        """Deal with something: answer with what came turned round, or refuse."""
        answering = self.talk.answering
        heard = answering.heard()
        if heard is None:
            return
        if heard.ticket is None:
            self.told.append(heard.body)
            answering.dealt(heard)
        elif rng.random() < 0.2:
            answering.refuse(heard.ticket, Kind.REFUSE, "no")
        else:
            answering.answer(heard.ticket, plain(heard.body[::-1]))


@QUICK
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.booleans(), st.integers(0, 8192)), max_size=25),
)
def test_everything_arrives_once_and_whole_in_any_pieces(seed, bodies):
    rng = random.Random(seed)
    a, b = sides = Side(), Side()
    asked, told = [], []
    for ask, size in bodies:
        body = rng.randbytes(size)
        reply = Reply() if ask else None
        into = memoryview(bytearray(size)) if rng.random() < 0.5 and ask else None
        kind = Kind.ASK if ask else Kind.TELL
        sending = Sending(kind, 0, b"/x", plain(body))
        assert a.talk.asking.put(Asked(sending, reply, 1e9, into))
        if ask:
            asked.append((reply, body, into))
        else:
            told.append(body)
    idle = 0
    while idle < 60:
        side, other = sides if rng.random() < 0.5 else sides[::-1]
        other.wire += (moved := side.leave(rng.randrange(5000)))
        busy = bool(moved or side.wire)
        for _ in range(rng.randrange(20)):
            side.arrive(rng.choice((1, 7, 100, 5000)))
        side.serve(rng)
        idle = 0 if busy else idle + 1
        assert a.talk.granted <= LIMITS.window_bytes >= b.talk.granted
    assert sorted(b.told) == sorted(told)
    for reply, body, into in asked:
        if reply.exception(0) is not None:
            assert str(reply.exception(0)) == "no"
        elif into is None:
            assert reply.result(0) == body[::-1]
        else:
            assert (reply.result(0), bytes(into)) == (len(body), body[::-1])


@QUICK
@given(st.integers(0, 2**32))
def test_a_peer_that_sends_nonsense_is_refused_and_nothing_else_happens(seed):
    """Valid conversations with one byte, or one frame, changed."""
    rng = random.Random(seed)
    side, other = Side(), Side()
    for i in range(6):
        sending = Sending(rng.choice((Kind.ASK, Kind.TELL)), 0, b"/x", plain(bytes(i)))
        reply = Reply() if sending.kind is Kind.ASK else None
        other.talk.asking.put(Asked(sending, reply, 1e9, None))
    hello = frame(Kind.HELLO, tail=LIMITS.greeting(1 << 20).encoded())
    side.wire += hello
    while side.wire:
        side.arrive(1000)
    other.wire += side.leave(1 << 20)
    while other.wire:
        other.arrive(1000)
    data = other.leave(1 << 20)[len(hello) :]
    if rng.random() < 0.5:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        kind = rng.randrange(16)
        numbers = [rng.choice((0, 1, 7, 1 << 13, 1 << 63)) for _ in range(2)]
        part = rng.choice((0, 1, 5, 1 << 20))
        head = HEAD.pack(kind, rng.choice((0, 2)), rng.randrange(5), part, *numbers)
        data += head + rng.randbytes(rng.randrange(40))
    side.wire += data
    try:
        while side.wire:
            before = len(side.wire)
            side.arrive(rng.choice((1, 50, 5000)))
            side.serve(rng)
            assert len(side.wire) < before
    except ProtocolError:
        pass
    side.talk.end(PeerLostError("over"))


@QUICK
@given(st.binary(max_size=200))
def test_random_bytes_never_do_more_than_end_the_channel(data):
    side = Side()
    side.wire += data
    try:
        while side.wire:
            side.arrive(50)
    except ProtocolError:
        return
    assert len(data) < HEAD_BYTES or data[0] == Kind.HELLO


@QUICK
@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES))
def test_heads_have_one_encoding(data):
    data = bytes([data[0] % 16]) + data[1:]
    try:
        head = read_head(data)
    except ProtocolError:
        return
    assert HEAD.pack(*head) == data


@QUICK
@given(st.text(max_size=600))
def test_topics_and_words_come_back_as_they_were_sent(text):
    words = words_of(words_bytes(text))
    assert len(words_bytes(text)) <= 512
    if text.isprintable() and len(text) < 100:
        assert words == text
    try:
        raw = topic_bytes(text)
    except ProtocolError:
        return
    assert topic_of(raw) == text


@QUICK
@given(st.binary(min_size=2, max_size=64))
def test_messages_of_tunnels_have_one_encoding(data):
    try:
        message = read_message(bytes([data[0] % 5, data[1] % 3]) + data[2:] + bytes(9))
    except ProtocolError:
        return
    assert read_message(message.encoded()) == message
    assert isinstance(message, Message)


@pytest.mark.parametrize("bad", [b"\xff", b"a b", b"", b"\n", "é".encode()])
def test_what_is_no_topic(bad):
    with pytest.raises(ProtocolError, match="is no topic"):
        topic_of(bad)
