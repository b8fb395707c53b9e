"""FedCompass: slow peers get fewer batches, so that groups of peers answer together.

Source:
    Li et al., "FedCompass: Efficient Cross-Silo Federated Learning on Heterogeneous
    Client Devices using a Computing Power Aware Scheduler", ICLR 2024, Algorithms 1
    and 2. https://arxiv.org/abs/2309.14675

Notation, paper -> here:
    Q_min, Q_max   batches a peer may be given        ``min_steps``, ``max_steps``
    S_i            seconds per batch of peer i        ``pace.speeds[peer]``
    G              groups                             ``pace.groups``
    T_a            expected time of arrival           ``group.expected_s``
    T_max          latest time of arrival             ``group.latest_s``
    λ              latest time factor                 ``latest_factor``

A peer's first work is ``max_steps`` batches, and its first answer is folded alone, at
once. From then on it joins a group that expects its answers when this peer can have
done a good number of batches, or opens one. A group is folded when all have answered,
or at its latest time with those who have; who has answered waits for that. A late
answer is folded with the next group, and its peer starts again at once.

Departures, most because the authors' code (APPFL 1.12.0) goes wrong there:
    Late answers are folded when the next group ends, be it empty, and at once if no
    group is open; there they waited for the next answer in time, if any came.
    A late answer computed from the newest model is folded at once: its peer would get
    the same model again, and here also the same batches.
    All late answers are kept; there a peer's second replaced its first.
    A group ends with its fold, and who is still at work belongs to none; there a peer
    that never came back kept its group for ever.
    The time a peer takes is measured here and the number of batches is what it was
    given: nothing that it says about itself counts.
    The last digit of a division cannot cost a batch: there the batches of equally
    fast peers fell from round to round.

Bound: with S the largest speed estimate so far, no group is open for longer than
``latest_factor * max_steps * S``, and no answer waits longer than that to be folded.
It takes a clock and nothing else: no further answer has to come. There are never more
open groups than peers at work.

S is what the slowest peer makes it. ``patience_s`` bounds what that costs others: an
answer in time waits at most ``patience_s`` plus ``max_steps + 1`` batches at the speed
that its own peer was known to have.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from fedcore.errors import ConfigError
from fedcore.pacing import Start, by_peer
from fedcore.strategy import PeerId, Update
from strategies.compass_groups import (
    Group,
    Steps,
    joined,
    learned,
    opened,
    opening_steps,
)
from strategies.limits import counts

ALONE = 0  # the group of a peer whose speed is not known yet


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer at work was given.

    Attributes:
        steps: batches.
        start_s: since when.
        folds: made before it.
        group: its number; ``ALONE`` for a first work.
    """

    steps: int
    start_s: float
    folds: int
    group: int


@dataclass(frozen=True, slots=True)
class Course:
    """What the pacer knows.

    Attributes:
        jobs: of the peers at work.
        speeds: seconds per batch of every peer heard so far.
        groups: open groups, oldest first.
        late: answers that go with the next group that ends.
        ready: folds to be made, first one first.
        folds: made so far.
        opened: groups ever opened.
    """

    jobs: Mapping[PeerId, Job] = field(default_factory=dict)
    speeds: Mapping[PeerId, float] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    late: tuple[Update, ...] = ()
    ready: tuple[tuple[Update, ...], ...] = ()
    folds: int = 0
    opened: int = 0


@dataclass(frozen=True, slots=True)
class Compass:
    """Give peers as many batches as let them answer in groups.

    Attributes:
        min_steps: Q_min, fewest batches per work, >= 1.
        max_steps: Q_max, most batches per work, and those of a peer's first.
        speed_momentum: weight of the newest measurement of a peer's speed, in (0, 1].
        latest_factor: λ, how long a group waits as a multiple of the time expected,
            >= 1.
        patience_s: longest a group waits beyond the time expected, in seconds, >= 0.
        max_staleness: folds an answer may be behind; older ones are refused.
    """

    min_steps: int = 20
    max_steps: int = 100
    speed_momentum: float = 0.9
    latest_factor: float = 1.5
    patience_s: float = inf
    max_staleness: int = 1000

    def __post_init__(self) -> None:
        counts(1, min_steps=self.min_steps)
        if self.max_steps < self.min_steps:
            raise ConfigError(
                f"max_steps must be at least min_steps: {self.max_steps} is below "
                f"{self.min_steps}"
            )
        if not 0 < self.speed_momentum <= 1:
            raise ConfigError(
                f"speed_momentum must be in (0, 1], not {self.speed_momentum}"
            )
        if not 1 <= self.latest_factor < inf:
            raise ConfigError(
                f"latest_factor must be at least 1 and finite: {self.latest_factor}"
            )
        if not self.patience_s >= 0:
            raise ConfigError(f"patience_s must be at least 0: {self.patience_s}")

    @property
    def steps(self) -> Steps:
        """The range of batches."""
        return Steps(self.min_steps, self.max_steps)

    def init(self) -> Course:
        return Course()

    def assign(
        self, pace: Course, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Course, Sequence[Start]]:
        waiting = {u.peer for g in pace.groups for u in g.arrived}
        waiting |= {u.peer for fold in pace.ready for u in fold}
        free = [p for p in idle if p not in waiting and p not in pace.jobs]
        starts = []
        for peer in sorted(free, key=lambda p: (pace.speeds.get(p, inf), p)):
            pace = self._sent(pace, peer, now_s)
            starts.append(Start(peer, pace.jobs[peer].steps))
        return pace, starts

    def _sent(self, pace: Course, peer: PeerId, now_s: float) -> Course:
        """Return the pace after giving ``peer`` work; the fastest come first."""
        step_s = pace.speeds.get(peer)
        if step_s is None:
            return _at_work(pace, peer, Job(self.max_steps, now_s, pace.folds, ALONE))
        found = joined(pace.groups, now_s, step_s, self.steps)
        if found is not None:
            group, steps = found
            groups = _with(pace.groups, _entered(group, peer))
            job = Job(steps, now_s, pace.folds, group.number)
            return replace(_at_work(pace, peer, job), groups=groups)
        steps = opening_steps(pace.groups, now_s, step_s, pace.speeds, self.steps)
        number = pace.opened + 1
        waits = (self.latest_factor, self.patience_s)
        group = opened(number, peer, now_s, steps * step_s, *waits)
        pace = _at_work(pace, peer, Job(steps, now_s, pace.folds, number))
        return replace(pace, groups=(*pace.groups, group), opened=number)

    def lose(self, pace: Course, peers: Collection[PeerId], now_s: float) -> Course:
        gone = frozenset(peers)
        jobs = {p: job for p, job in pace.jobs.items() if p not in gone}
        groups = [replace(g, working=g.working - gone) for g in pace.groups]
        kept = tuple(g for g in groups if g.working or g.arrived)
        return replace(pace, jobs=jobs, groups=kept)

    def take(
        self, pace: Course, updates: Sequence[Update], now_s: float
    ) -> tuple[Course, Sequence[Update]]:
        for update in updates:
            pace = self._heard(pace, update, now_s)
        pace = closed(pace, now_s)
        if not pace.ready:
            return pace, []
        fold, *rest = pace.ready
        return replace(pace, ready=tuple(rest), folds=pace.folds + 1), by_peer(fold)

    def _heard(self, pace: Course, update: Update, now_s: float) -> Course:
        """Return the pace with ``update`` put where it belongs."""
        job = pace.jobs.get(update.peer)
        if job is None:
            return put_off(pace, update)
        pace = self._timed(pace, update.peer, job, now_s)
        if job.group == ALONE:
            return replace(pace, ready=(*pace.ready, (update,)))
        for group in pace.groups:
            if group.number == job.group and now_s <= group.latest_s:
                return replace(pace, groups=_with(pace.groups, _came(group, update)))
        pace = replace(pace, groups=tuple(_left(g, update.peer) for g in pace.groups))
        return put_off(pace, update, fresh=job.folds == pace.folds)

    def _timed(self, pace: Course, peer: PeerId, job: Job, now_s: float) -> Course:
        """Return the pace knowing that ``peer`` has ended ``job``, and how fast."""
        jobs = dict(pace.jobs)
        del jobs[peer]
        old, took_s = pace.speeds.get(peer), now_s - job.start_s
        step_s = learned(old, took_s, job.steps, self.speed_momentum)
        return replace(pace, jobs=jobs, speeds={**pace.speeds, peer: step_s})

    def deadline_s(self, pace: Course) -> float:
        if pace.ready:
            return -inf
        return min((g.latest_s for g in pace.groups), default=inf)


def _at_work(pace: Course, peer: PeerId, job: Job) -> Course:
    return replace(pace, jobs={**pace.jobs, peer: job})


def _entered(group: Group, peer: PeerId) -> Group:
    return replace(group, working=group.working | {peer})


def _left(group: Group, peer: PeerId) -> Group:
    return replace(group, working=group.working - {peer})


def _came(group: Group, update: Update) -> Group:
    return replace(_left(group, update.peer), arrived=(*group.arrived, update))


def _with(groups: tuple[Group, ...], new: Group) -> tuple[Group, ...]:
    return tuple(new if g.number == new.number else g for g in groups)


def put_off(pace: Course, update: Update, *, fresh: bool = False) -> Course:
    """Return the pace with ``update`` to go with the next group that ends.

    A ``fresh`` one, computed from the model there is, goes at once: its peer would
    start from the same model again, and do the same work twice.
    """
    late = (*pace.late, update)
    if fresh:
        return replace(pace, late=(), ready=(*pace.ready, late))
    return replace(pace, late=late)


def closed(pace: Course, now_s: float) -> Course:
    """Return the pace after ending every group that is complete or out of time."""
    late, ready = pace.late, pace.ready
    still: list[Group] = []
    for group in pace.groups:
        if group.working and now_s < group.latest_s:
            still.append(group)
        elif group.arrived or late:
            ready, late = (*ready, (*late, *group.arrived)), ()
    if late and not still:
        ready, late = (*ready, late), ()
    return replace(pace, groups=tuple(still), late=late, ready=ready)
