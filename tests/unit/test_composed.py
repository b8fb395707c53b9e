"""Parts of a composed machine do not notice each other."""

from dataclasses import dataclass, field

import pytest

from fedcore.errors import ProtocolError, StorageError
from p2p.composed import Composed
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Note,
    Refuse,
    Told,
    Up,
    Wake,
    Woken,
)


@dataclass
class Scripted:
    """Writes down its events and answers with the effects it was given."""

    topics: tuple[str, ...]
    replies: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def step(self, now_s, event):
        self.seen.append((now_s, event))
        return self.replies.get(type(event), ())


def test_topics_find_their_part():
    a, b = Scripted(("/a/1",)), Scripted(("/b/1",))
    both = Composed({"a": a, "b": b})
    both.step(0.0, Told("p", "/b/1", b"x"))
    assert (a.seen, b.seen) == ([], [(0.0, Told("p", "/b/1", b"x"))])


def test_a_topic_of_nobody_is_refused():
    with pytest.raises(ProtocolError, match="nothing here answers '/c/1'"):
        Composed({}).step(0.0, Asked("p", "/c/1", b"", 4))


def test_all_parts_hear_who_comes_and_goes():
    a, b = Scripted(("/a/1",)), Scripted(("/b/1",))
    both = Composed({"a": a, "b": b})
    both.step(1.0, Up("p"))
    both.step(2.0, Down("p", "cut"))
    assert a.seen == b.seen == [(1.0, Up("p")), (2.0, Down("p", "cut"))]


def test_equal_tickets_of_two_parts_are_kept_apart():
    replies = {Up: [Ask("p", "/x/1", b"", 7, 1.0)]}
    a, b = Scripted((), dict(replies)), Scripted((), dict(replies))
    both = Composed({"a": a, "b": b})
    first, second = (e for e in both.step(0.0, Up("p")) if isinstance(e, Ask))
    assert first.ticket != second.ticket
    both.step(1.0, Answered("p", second.ticket, b"yes"))
    both.step(2.0, Failed("p", first.ticket, lost=True, why="late"))
    assert b.seen[-1] == (1.0, Answered("p", 7, b"yes"))
    assert a.seen[-1] == (2.0, Failed("p", 7, lost=True, why="late"))


def test_an_answer_comes_once():
    a = Scripted((), {Up: [Ask("p", "/x/1", b"", 7, 1.0)]})
    both = Composed({"a": a})
    (ask,) = (e for e in both.step(0.0, Up("p")) if isinstance(e, Ask))
    both.step(1.0, Answered("p", ask.ticket, b"yes"))
    assert both.step(1.0, Answered("p", ask.ticket, b"again")) == ()
    assert len(a.seen) == 2


def test_tickets_of_others_questions_are_left_alone():
    a = Scripted(("/a/1",), {Asked: [Answer(12, b"ok")]})
    assert Answer(12, b"ok") in Composed({"a": a}).step(
        0.0, Asked("p", "/a/1", b"", 12)
    )


def test_each_part_has_its_own_alarm():
    a, b = Scripted((), {Up: [Wake(5.0)]}), Scripted((), {Up: [Wake(3.0)]})
    both = Composed({"a": a, "b": b})
    both.step(0.0, Woken())  # the first: all parts
    assert [e for e in both.step(1.0, Up("p")) if isinstance(e, Wake)] == [Wake(3.0)]
    a.seen.clear()
    b.seen.clear()
    assert Wake(5.0) in both.step(3.0, Woken())
    assert (a.seen, b.seen) == ([], [(3.0, Woken())])
    both.step(5.0, Woken())
    assert a.seen == [(5.0, Woken())]


def test_the_first_event_wakes_all():
    a, b = Scripted(()), Scripted(())
    Composed({"a": a, "b": b}).step(0.0, Woken())
    assert a.seen == b.seen == [(0.0, Woken())]


def test_a_part_whose_disk_fails_is_no_trouble_of_the_others():
    class Full:
        topics = ("/full/1",)

        def step(self, now_s, event):
            raise StorageError("no space left")

    other = Scripted(("/b/1",))
    both = Composed({"full": Full(), "b": other})
    woken = both.step(1.0, Woken())
    assert woken == [Note("disk", "no space left"), Wake(2.0)]
    assert other.seen == [(1.0, Woken())]
    asked = both.step(1.0, Asked("p", "/full/1", b"", 7))
    assert asked[:2] == [
        Note("disk", "no space left"),
        Refuse(7, "the disk here takes nothing; ask others"),
    ]
