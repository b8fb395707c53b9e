"""Logs: what is added, what is refused, and where a writer that lies is cut off."""

from dataclasses import replace

import pytest

from fedcore.errors import ProtocolError
from p2p.state.chain import Entry, Kind
from p2p.state.checking import Doubt, Gap, check
from p2p.state.exchange import wanted
from p2p.state.held import News, Pen
from p2p.state.logs import Logs
from p2p.state.segments import Branch, Segment
from tests.state_cases import copied, count, counts, logs, merge, pen_of, said, told
from tests.state_crowd import so_many
from tests.state_world import opening_of

ANNA, BEN = pen_of(1), pen_of(2)


def grown(*numbers: int) -> Logs:
    held = logs()
    said(held, ANNA, *counts(numbers))
    return held


def only(held: Logs, start: int = 0) -> Segment:
    [segment] = held.segments(ANNA.writer, start)
    return segment


def test_a_segment_proves_itself_to_one_who_knows_nothing():
    source, target = grown(1, 2, 3), logs()
    [news] = check(target, [only(source)])
    target.add(news)
    assert target.root() == source.root()
    assert target.by_writer[ANNA.writer].opening.peer == ANNA.key.peer


def test_a_log_is_told_from_mark_to_mark_and_each_piece_is_signed():
    source, target = grown(*range(600)), logs()
    pieces = list(source.segments(ANNA.writer, 0))
    assert [piece.end for piece in pieces] == [256, 512, 601]
    for piece in pieces:
        told_one = check(target, [piece])
        target.add(*told_one)
        assert target.tip(ANNA.writer).length == piece.end
    assert sorted(target.by_writer[ANNA.writer].heads) == [256, 512, 601]


def test_large_entries_are_told_in_pieces_that_fit_a_message():
    source = logs()
    said(source, ANNA, *[Entry(Kind.NOTE, bytes(65536))] * 7)
    sizes = [
        sum(len(entry.body) for entry in piece.entries)
        for piece in source.segments(ANNA.writer, 0)
    ]
    assert len(sizes) > 3
    assert max(sizes) <= 192 * 1024


def test_only_marks_and_the_newest_signature_are_kept():
    held = logs()
    for number in range(300):
        said(held, ANNA, count(number))
    assert sorted(held.by_writer[ANNA.writer].heads) == [256, 301]


def test_what_is_known_already_changes_nothing():
    source = grown(1, 2)
    assert check(source, [only(source)]) == []


def test_a_segment_that_overlaps_adds_what_is_new():
    source, target = grown(1, 2), logs()
    told(target, source)
    said(source, ANNA, count(3))
    [news] = check(target, [only(source)])
    assert isinstance(news, News)
    assert len(news.rows) == 1
    target.add(news)
    assert target.root() == source.root()


def test_a_segment_from_the_future_shows_a_gap():
    source = grown(1)
    said(source, ANNA, count(2))
    [gap] = check(logs(), [only(source, 2)])
    assert isinstance(gap, Gap)
    assert (gap.wanted.writer, gap.wanted.length) == (ANNA.writer, 3)


def test_another_log_of_the_same_length_raises_a_doubt():
    one, other = grown(1, 2), grown(1, 7)
    assert check(one, [only(other)]) == [Doubt(ANNA.writer, 3)]
    said(other, ANNA, count(8))
    assert check(one, [only(other, 3)]) == [Doubt(ANNA.writer, 3)]


def refused(segment: Segment) -> str:
    target = logs()
    with pytest.raises(ProtocolError) as error:
        check(target, [segment])
    assert not target.by_writer
    return str(error.value)


def test_what_nobody_signed_is_refused():
    good = only(grown(1, 2))
    changed = [*good.entries[:-1], count(3)]
    assert "did not sign" in refused(replace(good, entries=changed))
    assert "did not sign" in refused(replace(good, entries=good.entries[:-1]))
    assert "did not sign" in refused(replace(good, rest=Branch((), bytes(64))))


def test_a_log_begins_with_the_opening_of_its_writer():
    good = only(grown(1))
    ben = Entry(Kind.OPENING, opening_of(2)[1])
    stolen = replace(good, entries=[ben, *good.entries[1:]])
    assert "begins with the opening of" in refused(stolen)
    assert "entry 1 is of kind COUNT" in refused(replace(good, entries=[count(1)]))
    garbage = Entry(Kind.OPENING, b"garbage")
    assert refused(replace(good, entries=[garbage]))


def test_a_log_of_another_network_is_refused():
    source = Logs("00" * 32, logs().store, lambda data: ANNA.opening)
    opening = Entry(Kind.OPENING, opening_of(1)[1])
    for news in source.say(ANNA, [opening]):
        source.add(news)
    assert "in another network" in refused(only(source))


def test_a_segment_that_passes_a_mark_is_refused():
    source = grown(*range(300))
    first, second = source.segments(ANNA.writer, 0)
    both = replace(second, start=0, tag=first.tag)
    both = replace(both, entries=[*first.entries, *second.entries])
    assert "passes a mark" in refused(both)


def test_a_branch_where_none_belongs_is_refused():
    source = grown(1, 2)
    longer = only(source)
    rest = source.branch(ANNA.writer, 3)
    short = replace(longer, entries=longer.entries[:2], rest=rest)
    assert "signed further on" in refused(short)


def test_no_more_writers_than_seats_and_the_others_go_on(monkeypatch):
    pens = sorted((ANNA, BEN, pen_of(3)), key=lambda pen: pen.writer)
    source, target = logs(), logs()
    for pen in pens:
        said(source, pen, count(1))
    told(target, copied(source_of(pens[1])))
    so_many(monkeypatch, 2)
    writers = [pen.writer for pen in reversed(pens)]
    pieces = [p for w in writers for p in source.segments(w, target.tip(w).length)]
    assert len(target.add(*check(target, pieces))) == 2
    assert target.by_writer.keys() == {pen.writer for pen in pens[:2]}
    assert target.item(pens[1].writer) == source.item(pens[1].writer)
    assert wanted(target, [source.item(writer) for writer in writers]) == []


def source_of(pen: Pen) -> Logs:
    held = logs()
    said(held, pen)
    return held


def forked(*tails: list[int]) -> list[Logs]:
    """Return logs of which each goes on differently after entries 1 and 2."""
    trunk = grown(1, 2)
    found = [copied(trunk) for _ in tails]
    for held, numbers in zip(found, tails, strict=True):
        for number in numbers:
            said(held, ANNA, count(number))
    return found


def test_a_fork_cuts_where_the_stories_part():
    one, other = forked([10, 11, 12], [20])
    merge(one, other)
    for held in (one, other):
        assert held.tip(ANNA.writer).length == 3
        assert held.by_writer[ANNA.writer].fork.position == 4
    assert one.root() == other.root()


def test_a_frozen_log_grows_no_more():
    one, other = forked([10], [20])
    merge(one, other)
    late, _ = forked([10, 11, 12], [])
    assert check(one, list(late.segments(ANNA.writer, 3))) == []
    assert check(one, list(late.segments(ANNA.writer, 0))) == []


def test_a_newcomer_learns_a_frozen_log_with_what_vouches_for_it():
    one, other = forked([10, 11], [20])
    merge(one, other)
    newcomer = logs()
    told(newcomer, one)
    assert newcomer.root() == one.root()
    third = logs()
    told(third, newcomer)
    assert third.root() == one.root()


def test_one_that_is_behind_a_fork_takes_only_what_is_before_it():
    one, other = forked([10, 11], [20])
    late = logs()
    told(late, copied(one))
    merge(one, other)
    fork = one.by_writer[ANNA.writer].fork
    behind = grown(1)
    behind.freeze(fork, ours=False)
    for news in check(behind, list(late.segments(ANNA.writer, 2))):
        behind.add(news)
    assert behind.root() == one.root()


def test_two_openings_of_one_writer_leave_nothing_of_it():
    first, second = logs(), logs()
    said(first, ANNA, count(1))
    other_key, other_opening = opening_of(1, "observer")
    assert other_key == ANNA.key
    pen = Pen(other_key, second.openings(other_opening))
    for news in second.say(pen, [Entry(Kind.OPENING, other_opening)]):
        second.add(news)
    merge(first, second)
    assert first.root() == second.root()
    assert first.tip(ANNA.writer).length == 0
    assert first.by_writer[ANNA.writer].fork.position == 1
    newcomer = logs()
    told(newcomer, first)
    assert newcomer.root() == first.root()


def test_logs_are_found_again_after_a_restart():
    one, other = forked([10, 11, 12], [20])
    said(one, BEN, *counts(range(300)))
    merge(one, other)
    again = copied(one)
    assert again.root() == one.root()
    for writer, log in one.by_writer.items():
        assert again.by_writer[writer] == log
