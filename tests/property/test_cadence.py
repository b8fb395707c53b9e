"""Laws of the one beat under any peers: slow, changing, lost, lying, back again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.tree import flatten, restore
from strategies.cadence_pacer import Bar, Cadence
from tests.driving import Drive
from tests.property.test_compass import EVENTS, PEERS, play

PACERS = st.builds(
    Cadence,
    min_steps=st.integers(1, 3),
    max_steps=st.integers(3, 12),
    speed_momentum=st.sampled_from([0.1, 0.9, 1.0]),
    latest_factor=st.sampled_from([1.0, 1.2, 1.5, 4.0]),
)


class Watched(Drive):
    """Notes the largest speed estimate so far: S of the bound."""

    slowest_s = 0.0

    def _take(self, updates):
        super()._take(updates)
        self.slowest_s = max([self.slowest_s, *self.pace.speeds.values()])


def bound_s(drive):
    pacer = drive.pacer
    longest_s = pacer.latest_factor * pacer.max_steps * drive.slowest_s
    return longest_s * (1 + 1e-6) + 1e-6


def forms(drive):
    """What must hold at any time: nobody is idle, or held, without a reason."""
    pace, pacer = drive.pace, drive.pacer
    assert pace.jobs.keys() == drive.working.keys()
    assert pace.waited <= pace.jobs.keys()
    for _, steps in drive.working.values():
        assert pacer.min_steps <= steps <= pacer.max_steps
    if not pace.waited:
        assert not pace.came
        assert drive.online <= drive.working.keys()
    if pace.came:
        assert pacer.deadline_s(pace) <= drive.now_s + bound_s(drive)


@given(PACERS, EVENTS)
@settings(deadline=None, max_examples=40)
def test_every_answer_is_folded_once_and_within_the_bound(pacer, events):
    """By deadlines alone: after the last event nobody answers ever again."""
    drive = Watched(pacer, set(PEERS))
    play(drive, events, forms)
    drive.until(drive.now_s + 1e9)
    folded = [answer for _, fold in drive.folds for answer in fold]
    assert sorted(folded) == sorted(drive.sent)
    for now_s, fold in drive.folds:
        for answer in fold:
            assert now_s - drive.sent[answer] <= bound_s(drive)


@given(PACERS, EVENTS)
@settings(deadline=None, max_examples=25)
def test_what_peers_claim_changes_nothing_and_the_pace_can_be_stored(pacer, events):
    drives = Drive(pacer, set(PEERS)), Drive(pacer, set(PEERS))
    play(drives[0], events, lambda drive: None)
    play(drives[1], [(*e[:3], 1.0) for e in events], lambda drive: None)
    assert drives[0].starts == drives[1].starts
    assert drives[0].folds == drives[1].folds
    json, tensors = flatten(drives[1].pace)
    assert flatten(restore(Bar, json, tensors)) == (json, tensors)


@given(st.lists(st.floats(1.0, 1.4), min_size=6, max_size=6), st.integers(3, 12))
@settings(deadline=None, max_examples=30)
def test_peers_of_like_speed_all_keep_every_beat(speeds, most):
    """Steady speeds within the patience: whole rounds, nobody late, none shorter."""
    drive = Drive(Cadence(1, most), set(PEERS))
    step_s = dict(zip(PEERS, speeds, strict=True))
    for _ in range(6):
        start_s = drive.now_s
        ends = {p: start_s + n * step_s[p] for p, (_, n) in drive.working.items()}
        for peer in sorted(ends, key=ends.__getitem__):
            drive.answer(ends[peer], peer)
    assert [len(fold) for _, fold in drive.folds] == [6] * 6
    for _, fold in drive.folds:
        assert len({version for _, version in fold}) == 1
