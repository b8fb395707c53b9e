"""What logs come to, in small numbers that can be checked by hand."""

import pytest

from fedcore.errors import ProtocolError
from p2p.identity.removals import Removal, removal_of
from p2p.state import fold as folding
from p2p.state.bodies import (
    MAX_LAMPORT,
    Checkpoint,
    Count,
    Note,
    Presence,
    Run,
    Score,
    read_body,
    said_again,
)
from p2p.state.chain import Entry, Kind
from p2p.state.fold import Fold, said_in
from p2p.state.reference import fold as reference
from p2p.state.scores import Ratings
from tests.state_cases import count, counts, logs, pen_of, plain, said
from tests.state_world import opening_of

FOUNDER, ANNA, BEN = pen_of(0), pen_of(1), pen_of(2)
WATCHER, RELAY = pen_of(8, "observer"), pen_of(9, "relay")


class Held:
    """Logs and their fold, kept together as a replica keeps them."""

    def __init__(self):
        self.logs = logs()
        self.fold = Fold(self.logs)

    def say(self, pen, *entries, opening=None):
        if opening:
            [first] = self.logs.say(pen, [Entry(Kind.OPENING, opening)])
            self.logs.add(first)
            self.fold.take(first.opening, 0, first.rows)
        for new in said(self.logs, pen, *entries):
            self.fold.take(new.opening, new.before.length, new.rows)

    @property
    def view(self):
        found = self.fold.view()
        assert plain(found) == reference(said_in(self.logs))
        fresh = Fold(self.logs).view()
        assert plain(fresh) == plain(found)
        assert fresh.noted == found.noted
        return found


@pytest.fixture
def held():
    found = Held()
    for pen in (FOUNDER, ANNA, BEN):
        found.say(pen)
    return found


def test_members_are_those_who_opened_a_log(held):
    view = held.view
    peers = {pen.opening.peer: pen.opening.role for pen in (FOUNDER, ANNA, BEN)}
    assert {p: m.role for p, m in view.members.items()} == peers
    assert {m.status for m in view.members.values()} == {"in"}


def test_a_member_leaves_and_returns(held):
    leave, back = (
        Entry(k, Presence(n).encode()) for k, n in ((Kind.LEAVE, 2), (Kind.RETURN, 1))
    )
    held.say(ANNA, leave)
    assert held.view.members[ANNA.opening.peer].status == "left"
    held.say(ANNA, back)  # an older word does not count
    assert held.view.members[ANNA.opening.peer].status == "left"
    held.say(ANNA, Entry(Kind.RETURN, Presence(3).encode()))
    assert held.view.members[ANNA.opening.peer].status == "in"
    assert held.view.lamport == 3


def evict(held, pen, name):
    openings = [member.opening for member in held.fold.view().members.values()]
    lengths = {w: log.tip.length for w, log in held.logs.by_writer.items()}
    held.say(
        pen, Entry(Kind.REMOVAL, removal_of("peer", name, openings, lengths).encode())
    )


def test_an_evicted_member_keeps_what_it_had_said(held):
    held.say(ANNA, count(5))
    evict(held, FOUNDER, ANNA.opening.peer)
    held.say(ANNA, count(7))
    view = held.view
    assert view.members[ANNA.opening.peer].status == "out"
    assert "was evicted" in view.members[ANNA.opening.peer].why
    assert view.counters["c"].total == 5


def test_what_came_before_an_eviction_that_does_not_spare_it_goes_too(held):
    held.say(ANNA, count(5))
    assert held.view.counters["c"].total == 5
    removal = Removal("peer", ANNA.opening.peer, frozenset(), {ANNA.writer: 1})
    held.say(FOUNDER, Entry(Kind.REMOVAL, removal.encode()))
    assert "c" not in held.view.counters


def test_only_admins_send_away_and_write_runs(held):
    turns = held.fold.turns
    evict(held, ANNA, BEN.opening.peer)
    held.say(ANNA, Entry(Kind.RUN, Run("r", 9, "mine").encode()))
    assert held.view.members[BEN.opening.peer].status == "in"
    assert not held.view.runs
    assert held.fold.turns == turns + 1  # the first look; nothing was folded anew


def test_removals_by_one_who_was_sent_away_change_and_cost_nothing(held):
    admin = pen_of(7, "admin")
    held.say(admin, opening=opening_of(7, "admin")[1])
    evict(held, FOUNDER, admin.opening.peer)
    assert held.view.members[admin.opening.peer].status == "out"
    turns = held.fold.turns
    evict(held, admin, BEN.opening.peer)
    held.say(admin, Entry(Kind.REMOVAL, b"?"))
    assert held.view.members[BEN.opening.peer].status == "in"
    assert held.fold.turns == turns


def test_who_writes_the_highest_number_keeps_nobody_from_writing(held):
    held.say(BEN, Entry(Kind.LEAVE, Presence(MAX_LAMPORT).encode()))
    for kind, status in ((Kind.LEAVE, "left"), (Kind.RETURN, "in")):
        number = held.view.next_lamport
        held.say(ANNA, Entry(kind, Presence(number).encode()))
        assert held.view.members[ANNA.opening.peer].status == status


def test_observers_and_relays_write_only_of_themselves(held):
    for pen, role in ((WATCHER, "observer"), (RELAY, "relay")):
        number = 8 if role == "observer" else 9
        held.say(pen, count(1), opening=opening_of(number, role)[1])
    view = held.view
    assert "c" not in view.counters
    assert view.members[WATCHER.opening.peer].role == "observer"


def test_of_a_run_the_highest_number_counts(held):
    for number, spec in ((2, "second"), (3, "third"), (1, "first")):
        held.say(FOUNDER, Entry(Kind.RUN, Run("r", number, spec).encode()))
    assert held.view.runs["r"].spec == "third"
    held.say(FOUNDER, Entry(Kind.RUN, Run("r", 3, "later in the log").encode()))
    assert held.view.runs["r"].spec == "later in the log"


def test_of_equal_numbers_the_greater_writer_counts(held):
    for pen in (ANNA, BEN):
        body = Score("cleo", 1, 7 if pen is ANNA else 9).encode()
        held.say(pen, Entry(Kind.SCORE, body))
    raters = held.view.scores.by_ratee["cleo"]
    assert raters == {ANNA.opening.peer: 7, BEN.opening.peer: 9}


def test_the_median_of_scores_is_weighted_at_reading():
    ratings = Ratings({"zoe": {"a": 100, "b": 300, "c": 900, "zoe": 1_000_000}})
    assert ratings.of("zoe", {"a": 1, "b": 1, "c": 1, "zoe": 99}) == 300
    assert ratings.of("zoe", {"a": 1, "b": 1, "c": 3}) == 900
    assert ratings.of("zoe", {"a": 1, "c": 1}) == 100  # the lower of an even split
    assert ratings.of("zoe", {"d": 5}) is None
    assert ratings.of("nobody", {"a": 1}) is None


def test_counters_add_up_by_peer(held):
    held.say(ANNA, *counts([5, -2, 4]))
    held.say(BEN, *counts([-1, -1]))
    tally = held.view.counters["c"]
    assert tally.by_peer == {ANNA.opening.peer: (9, 2), BEN.opening.peer: (0, 2)}
    assert tally.total == 5


def test_what_is_said_again_counts_once_for_a_peer(held):
    first, other = (Count("c", 5, bytes([n]) * 32).encode() for n in (1, 2))
    held.say(ANNA, *[Entry(Kind.COUNT, body) for body in (first, other, first)])
    held.say(BEN, Entry(Kind.COUNT, first))
    tally = held.view.counters["c"]
    assert tally.by_peer == {ANNA.opening.peer: (10, 0), BEN.opening.peer: (5, 0)}


def test_an_origin_is_a_link_or_none():
    plain = Count("c", -3)
    assert read_body(Kind.COUNT, plain.encode()) == plain
    again = said_again(Entry(Kind.COUNT, plain.encode()), b"x" * 32)
    assert read_body(Kind.COUNT, again.body) == Count("c", -3, b"x" * 32)
    assert said_again(again, b"y" * 32) == again  # it names the first
    for wrong in (b"x", b"x" * 31, b"x" * 33):
        with pytest.raises(ProtocolError, match="no link"):
            read_body(Kind.COUNT, plain.encode() + wrong)
    for entry in (Entry(Kind.COUNT, b"?"), Entry(Kind.SCORE, b"")):
        assert said_again(entry, b"x" * 32) == entry


def test_the_catalogue_knows_all_and_the_newest(held):
    old, new, twin = (
        Checkpoint("r", v, cid, 9, "ab" * 32)
        for v, cid in ((1, "z"), (2, "a"), (2, "b"))
    )
    held.say(ANNA, *[Entry(Kind.CHECKPOINT, c.encode()) for c in (new, old, old)])
    held.say(BEN, *[Entry(Kind.CHECKPOINT, c.encode()) for c in (old, twin)])
    shelf = held.view.checkpoints["r"]
    assert shelf.newest == twin
    assert shelf.all[old] == tuple(sorted([ANNA.opening.peer, BEN.opening.peer]))
    assert len(shelf.all) == 3


def test_what_nobody_can_read_is_noted_and_passed_over(held, monkeypatch):
    monkeypatch.setattr(folding, "NOTED", 2)
    held.say(ANNA, Entry(Kind.SCORE, b"garbage"), count(1), Entry(Kind.NOTE, b""))
    held.say(FOUNDER, Entry(Kind.REMOVAL, b"garbage"))
    view = held.fold.view()
    assert view.counters["c"].total == 1
    assert len(view.noted) == 2


def test_a_view_does_not_change_any_more(held):
    held.say(ANNA, count(1), Entry(Kind.NOTE, Note("d", b"1").encode()))
    before = held.view
    held.say(ANNA, count(1), Entry(Kind.NOTE, Note("d", b"2").encode()))
    assert before.counters["c"].total == 1
    assert len(before.notes["d"]) == 1
    assert len(held.view.notes["d"]) == 2
    with pytest.raises(TypeError):
        before.counters["c"] = None
    assert before.notes["d"][0] == (ANNA.writer, 3)
    assert before.notes["d"][-1:] == [(ANNA.writer, 3)]
    with pytest.raises(IndexError):
        before.notes["d"][1]


def test_a_new_entry_folds_nothing_anew(held):
    assert held.view
    turns = held.fold.turns
    for number in range(5):
        held.say(ANNA, Entry(Kind.COUNT, Count("c", number).encode()))
        assert held.fold.view().counters["c"].total == sum(range(number + 1))
    assert held.fold.turns == turns
