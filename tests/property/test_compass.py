"""Laws of FedCompass's pacer under any peers: slow, lost, lying, returning."""

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.tree import flatten, restore
from strategies.compass_pacer import Compass, Course
from tests.driving import Drive

PEERS = [f"p{i}" for i in range(6)]
PACERS = st.builds(
    Compass,
    min_steps=st.integers(1, 3),
    max_steps=st.integers(3, 12),
    speed_momentum=st.sampled_from([0.1, 0.9, 1.0]),
    latest_factor=st.sampled_from([1.0, 1.2, 1.5, 4.0]),
    patience_s=st.sampled_from([inf, 10.0]),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "answer", "lose", "leave", "come"]),
        st.lists(st.integers(0, len(PEERS) - 1), min_size=1, max_size=3, unique=True),
        st.one_of(st.just(0.0), st.floats(1e-6, 1e5)),  # since the event before
        st.floats(-1e9, 1e9),  # what the peer claims
    ),
    max_size=40,
)


def play(drive, events, check):
    """Let the events happen that can, and ``check`` after each."""
    for kind, numbers, later_s, claim in events:
        now_s = drive.now_s + later_s
        drive.until(now_s)
        chosen = [PEERS[i] for i in numbers]
        at_work = [p for p in chosen if p in drive.working]
        if kind == "answer":
            drive.answer(now_s, *at_work, steps=claim, took_s=claim)
        elif kind == "lose":
            drive.lose(now_s, *at_work)
        elif kind == "leave":
            drive.online -= set(chosen)
        else:
            for peer in chosen:
                drive.come(peer)
        check(drive)


class Watched(Drive):
    """Notes the slowest speed so far, and how long each answer in time may wait."""

    slowest_s = 0.0

    def __post_init__(self):
        self.may_wait_s, self.late = {}, set()
        super().__post_init__()

    def _take(self, updates):
        super()._take(updates)
        self.slowest_s = max([self.slowest_s, *self.pace.speeds.values()])
        self.late |= {(u.peer, u.version) for u in self.pace.late}

    def _assign(self):
        before = len(self.starts)
        super()._assign()
        for _, peer, _ in self.starts[before:]:
            own_s = self.pace.speeds.get(peer, 0.0) * (self.pacer.max_steps + 1)
            answer = peer, self.working[peer][0]
            self.may_wait_s[answer] = own_s + self.pacer.patience_s

    def bound_s(self):
        """Return the longest that any answer may wait, whoever else is slow."""
        return self.pacer.latest_factor * self.pacer.max_steps * self.slowest_s


def forms(drive):
    """What must hold at any time: every group is waited for by somebody at work."""
    pace, pacer = drive.pace, drive.pacer
    if pace.ready:
        return  # more is folded at once; then
    assert pace.jobs.keys() == drive.working.keys()
    assert len(pace.groups) <= len(drive.working)
    seats = [peer for g in pace.groups for peer in g.working]
    assert sorted(seats) == sorted(
        p for p, j in pace.jobs.items() if j.group in {g.number for g in pace.groups}
    )
    for _, steps in drive.working.values():
        assert pacer.min_steps <= steps <= pacer.max_steps
    waiting = {u.peer for g in pace.groups for u in g.arrived}
    assert drive.online <= drive.working.keys() | waiting
    if waiting or pace.late:
        assert within(pacer.deadline_s(pace) - drive.now_s, drive.bound_s())


def within(waited_s, bound_s):
    return waited_s <= bound_s * (1 + 1e-6) + 1e-6


@given(PACERS, EVENTS)
@settings(deadline=None, max_examples=40)
def test_every_answer_is_folded_once_and_within_the_bound(pacer, events):
    """By deadlines alone: after the last event nobody answers ever again."""
    drive = Watched(pacer, set(PEERS))
    play(drive, events, forms)
    drive.until(drive.now_s + 1e9)
    folded = [answer for _, fold in drive.folds for answer in fold]
    assert sorted(folded) == sorted(drive.sent)
    assert drive.pace.groups == ()
    for now_s, fold in drive.folds:
        for answer in fold:
            waited_s = now_s - drive.sent[answer]
            assert within(waited_s, drive.bound_s())
            assert answer in drive.late or within(waited_s, drive.may_wait_s[answer])


@given(PACERS, EVENTS)
@settings(deadline=None, max_examples=25)
def test_what_peers_claim_changes_nothing_and_the_pace_can_be_stored(pacer, events):
    drives = Drive(pacer, set(PEERS)), Drive(pacer, set(PEERS))
    play(drives[0], events, lambda drive: None)
    play(drives[1], [(*e[:3], 1.0) for e in events], lambda drive: None)
    assert drives[0].starts == drives[1].starts
    assert drives[0].folds == drives[1].folds
    pace = drives[1].pace
    json, tensors = flatten(pace)
    assert flatten(restore(Course, json, tensors)) == (json, tensors)
