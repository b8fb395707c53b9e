"""The conversation without sockets: order, limits, credits, deadlines, pings."""

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.channel.asking import Asked, Reply
from p2p.channel.frames import Kind, cost_of, frame, read_head
from p2p.channel.limits import Greeting, Limits, read_greeting
from p2p.channel.outbox import Outbox, Sending, plain
from p2p.channel.talk import Talk


class Two:
    """Two talks; ``move`` carries bytes between them, in pieces of any size."""

    def __init__(self, a=None, b=None, credit=1 << 20):
        self.limits = a or Limits(), b or Limits()
        self.now_s = 0.0
        self.a, self.b = (Talk(limits, 0.0) for limits in self.limits)
        for talk in (self.a, self.b):
            talk.begin(credit)
        self.move()

    def frames(self, talk, limits, most=1 << 30):
        out, sent = talk.out, []
        talk.asking.admit()
        talk.answering.report()
        while most > 0:
            if out.control:
                data = out.control.popleft()
            elif (part := out.next(limits.part_bytes)) is not None:
                data = part.head + bytes(part.body)
                if part.last is not None:
                    talk.answering.sent(part.last)
            else:
                break
            most -= 1
            sent.append(data)
        return sent

    def move(self, most=1 << 30):
        """Carry frames both ways until nothing is left; return how many."""
        moved = 0
        while True:
            ab = self.frames(self.a, self.limits[0], most)
            ba = self.frames(self.b, self.limits[1], most)
            for data in ab:
                feed(self.b, data, self.now_s)
            for data in ba:
                feed(self.a, data, self.now_s)
            moved += len(ab) + len(ba)
            if not ab and not ba:
                return moved

    def ask(self, body, into=None, timeout_s=10.0, large=False):
        reply = Reply()
        sending = Sending(Kind.ASK, 0, b"/x", plain(body), large)
        self.a.asking.put(Asked(sending, reply, self.now_s + timeout_s, into))
        return reply

    def tell(self, body):
        sending = Sending(Kind.TELL, 0, b"/t", plain(body))
        return self.a.asking.put(Asked(sending, None, 0.0, None))

    def heard(self):
        found = []
        while (heard := self.b.answering.heard()) is not None:
            found.append(heard)
        return found


def feed(talk, data, now_s=0.0):
    data = memoryview(data)
    while data:
        want = talk.want()
        count = min(len(want), len(data))
        want[:count] = data[:count]
        data = data[count:]
        talk.took(count, now_s)


def test_a_small_message_waits_for_one_part_of_a_large_one():
    out = Outbox()
    out.credit = 1 << 40
    out.put(Sending(Kind.ANSWER, 1, b"", plain(bytes(1 << 24))))
    out.put(Sending(Kind.ANSWER, 2, b"", plain(bytes(1 << 24))))
    first = [read_head(out.next(1 << 18).head).ticket for _ in range(4)]
    assert first == [1, 2, 1, 2]
    out.put(Sending(Kind.ANSWER, 3, b"", plain(b"small")))
    out.put(Sending(Kind.ANSWER, 4, b"", plain(b"small")))
    assert [read_head(out.next(1 << 18).head).ticket for _ in range(3)] == [3, 4, 1]


def test_what_is_sent_never_exceeds_the_credit():
    out = Outbox()
    out.credit = 4096
    out.put(Sending(Kind.TELL, 1, b"/t", plain(bytes(100_000))))
    sent = 0
    while (part := out.next(1 << 18)) is not None:
        sent += part.cost
        assert part.cost >= len(part.head) + len(part.body)
    assert 1024 < sent <= 4096
    assert out.credit == 4096 - sent >= 0
    assert out.next(1 << 18) is None
    out.credit += 1 << 20
    assert out.next(1 << 18).last is not None
    assert cost_of(2, 100) == 24 + 2 + 100 + 22


def test_asks_and_answers_find_each_other_whatever_the_order():
    two = Two()
    replies = [two.ask(b"%d" % i) for i in range(5)]
    two.move()
    for heard in reversed(two.heard()):
        two.b.answering.answer(heard.ticket, plain(heard.body + b"!"))
    two.move()
    assert [reply.result(0) for reply in replies] == [b"%d!" % i for i in range(5)]


def test_no_more_asks_and_bytes_wait_at_the_peer_than_it_accepts():
    two = Two(b=Limits(asks=8, ask_bytes=1 << 16, held_bytes=1 << 19))
    small = [two.ask(b"x") for _ in range(20)]
    two.move()
    heard = two.heard()
    assert len(heard) == 8
    for each in heard:
        two.b.answering.refuse(each.ticket, Kind.REFUSE, "no\nthanks")
    two.move()
    with pytest.raises(ProtocolError, match=r"no\?thanks"):
        small[0].result(0)
    assert len(two.heard()) == 8
    two = Two(b=Limits(asks=8, ask_bytes=1 << 16, held_bytes=1 << 19))
    for _ in range(20):
        two.tell(bytes(30_000))
    two.move()
    assert len(two.heard()) == 4  # a fourth of what it holds
    with pytest.raises(ProtocolError, match="no body of 65537 bytes"):
        two.ask(bytes(65_537)).result(0)


def test_what_waits_here_is_bounded():
    two = Two(a=Limits(waiting=3, waiting_bytes=1000))
    two.a.asking.accepts = None
    assert two.tell(b"1")
    assert not two.tell(bytes(1000))
    assert two.tell(b"2")
    two.ask(b"3")
    with pytest.raises(PeerLostError, match="too much waits"):
        two.ask(b"4").result(0)


def test_a_late_ask_is_withdrawn_and_its_buffer_is_free():
    two = Two()
    into = memoryview(bytearray(2_000_000))
    reply = two.ask(b"", into=into)
    two.move()
    (heard,) = two.heard()
    body = bytes([7]) * 2_000_000
    two.b.answering.answer(heard.ticket, plain(body))
    for data in two.frames(two.b, two.limits[1], most=2):
        feed(two.a, data)
    two.now_s = 11.0
    two.a.tick(two.now_s)
    with pytest.raises(PeerLostError, match="in time"):
        reply.result(0)
    assert 0 < reply.arrived < len(into)
    before = bytes(into)
    two.move()
    assert bytes(into) == before
    assert before == body[: reply.arrived] + bytes(len(into) - reply.arrived)
    fine = two.ask(b"again")
    two.move()
    two.b.answering.answer(two.heard()[0].ticket, plain(b"fine"))
    two.move()
    assert fine.result(0) == b"fine"


def test_an_ask_that_nobody_has_seen_is_withdrawn_without_a_word():
    two = Two()
    reply = two.ask(b"x")
    two.a.asking.admit()
    two.a.tick(11.0)
    with pytest.raises(PeerLostError):
        reply.result(0)
    two.a.out.control.clear()  # a ping
    assert two.frames(two.a, two.limits[0]) == []


def test_a_cancelled_ask_is_not_dealt_with():
    two = Two(b=Limits(backlog_bytes=10))
    first, second = two.ask(b"1"), two.ask(b"2", timeout_s=1.0)
    two.move()
    heard = two.b.answering.heard()
    two.b.answering.answer(heard.ticket, plain(bytes(1 << 19)))
    assert two.b.answering.heard() is None  # the first answer must be fetched before
    two.a.tick(2.0)
    two.move()
    assert second.exception(0) is not None
    assert len(first.result(0)) == 1 << 19
    assert two.heard() == []


def test_a_backlog_of_answers_holds_back_the_asks():
    two = Two(b=Limits(backlog_bytes=100))
    for _ in range(3):
        two.ask(b"x")
    two.move()
    first = two.b.answering.heard()
    two.b.answering.answer(first.ticket, plain(bytes(101)))
    assert two.b.answering.heard() is None
    two.move()
    assert two.b.answering.heard() is not None


def test_asks_with_large_answers_hold_back_only_each_other():
    two = Two(b=Limits(backlog_bytes=100))
    for i in range(4):
        two.ask(b"%d" % i, large=i < 3)
    two.move()
    assert two.b.answering.heard().body == b"3"
    first = two.b.answering.heard()
    two.b.answering.answer(first.ticket, plain(bytes(101)))
    two.ask(b"4")
    two.ask(b"5", large=True)
    for data in two.frames(two.a, two.limits[0]):
        feed(two.b, data)
    assert [heard.body for heard in two.heard()] == [b"4"]
    two.move()
    assert [heard.body for heard in two.heard()] == [b"1", b"2", b"5"]


def test_answers_without_a_buffer_are_bounded_together():
    two = Two(a=Limits(answer_bytes=1000, arriving_bytes=1500))
    replies = [two.ask(b"%d" % i) for i in range(3)]
    two.move()
    for heard, size in zip(two.heard(), (1001, 1000, 1000), strict=True):
        two.b.answering.answer(heard.ticket, plain(bytes(size)))
    two.move()
    with pytest.raises(ProtocolError, match="1001 bytes, 1000 allowed"):
        replies[0].result(0)
    assert [reply.result(0) for reply in replies[1:]] == [bytes(1000)] * 2


def test_pings_measure_the_round_trip_and_silence_is_a_loss():
    two = Two()
    two.a.tick(0.0)
    (ping,) = two.frames(two.a, two.limits[0])
    assert two.a.due_s() == 20.0
    feed(two.b, ping, 0.01)
    (pong,) = two.frames(two.b, two.limits[1])
    feed(two.a, pong, 0.02)
    assert two.a.rtt_s == pytest.approx(0.02)
    assert two.a.due_s() == pytest.approx(5.02)
    two.a.tick(5.02)
    (ping,) = two.frames(two.a, two.limits[0])
    feed(two.b, ping, 5.03)
    (pong,) = two.frames(two.b, two.limits[1])
    feed(two.a, pong, 5.52)
    assert two.a.rtt_s == pytest.approx(0.02)  # the queues of this one do not count
    with pytest.raises(PeerLostError, match="silent for 20 s"):
        two.a.tick(25.6)


def test_a_peer_that_reads_no_replies_is_cut_off():
    two = Two()
    ping = frame(Kind.PING, number=1)
    with pytest.raises(ProtocolError, match="a flood of frames"):  # noqa: PT012 - one of many
        for _ in range(5000):
            feed(two.b, ping)


def test_credits_are_granted_in_large_steps():
    two = Two(credit=1 << 20)
    assert two.b.owed(1 << 20) == 0
    two.tell(bytes(300_000))
    two.move()
    assert two.b.owed(1 << 20) >= 300_000
    two.b.grant(two.b.owed(1 << 20))
    two.move()
    assert two.a.out.credit == two.b.granted == 1 << 20
    with pytest.raises(ProtocolError, match="beyond all bounds"):  # noqa: PT012 - the 2nd
        for _ in range(2):
            feed(two.a, frame(Kind.CREDIT, number=1 << 40))


@pytest.mark.parametrize(
    "greeting",
    [
        Greeting(0, 1 << 10, 1 << 16, 4096),
        Greeting(1, 1 << 20, 1 << 22, 4096),
        Greeting(1, 1 << 10, 1 << 16, 4095),
        Greeting(1 << 41, 1 << 10, 1 << 16, 4096),
    ],
)
def test_greetings_that_cannot_be(greeting):
    with pytest.raises(ProtocolError, match="a greeting"):
        read_greeting(greeting.encoded())
    with pytest.raises(ProtocolError, match="not 32"):
        read_greeting(b"short")


@pytest.mark.parametrize(
    "wrong",
    [
        {"part_bytes": 100},
        {"window_bytes": 1},
        {"asks": 0},
        {"held_bytes": 1 << 22},
        {"ping_s": 30.0},
    ],
)
def test_limits_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_bodies_are_bytes_in_a_row():
    assert plain(bytearray(b"ab")) == b"ab"
    with pytest.raises(ConfigError, match="in a row"):
        plain(memoryview(b"abcd")[::2])
    with pytest.raises(ConfigError, match="in a row"):
        plain("text")
