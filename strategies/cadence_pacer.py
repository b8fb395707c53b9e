"""Cadence: all peers start together and work until one time, each as far as it gets.

Our own variant of FedCompass's idea (``strategies.compass_pacer``): devices of unlike
speed are given unlike numbers of batches, so that their answers come together. There
peers meet in groups that form as answers come; here all who can keep one beat.

    s_i    seconds per batch of peer i              ``pace.speeds[peer]``
    T      length of a beat                         ``beat_s``
    Q_min, Q_max   batches a peer may be given      ``min_steps``, ``max_steps``
    λ      patience                                 ``latest_factor``

    T  =  max(Q_max min_i s_i, Q_min median_i s_i)     over the peers of the beat
    peer i does  min(Q_max, floor(T / s_i))  batches

So the fastest does Q_max batches, and at least half of the peers keep the beat. Who
would do fewer than Q_min is given Q_min and not waited for: its answer goes with the
beat in which it comes. A beat is folded when all have answered who were waited for, or
after λ T with those who have; who has answered waits for that. The first work of a
peer is Q_min batches, to learn its speed: if nobody's is known yet, the beat ends at λ
times the time that the quickest answer took.

Why not groups (``fedcore bench async``):
    Of equally fast peers, groups make a crowd that folds one by one, a few batches
    apart, each answer with the weight of one peer and the age of several folds. One
    beat is a round of FedAvg.
    A newcomer's Q_max batches keep its classes out of the model until it has done them:
    of a device 50 times as slow as the others, for 50 rounds. Q_min are quick.

Bound: with S the largest of ``pace.speeds``, no answer waits longer than
``latest_factor * max_steps * S`` for its fold. No further answer has to come for that.
A slow or silent minority cannot lengthen a beat, whose T looks at the fastest and the
middle; nor can one fast peer make it too short for the others.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from fedcore.errors import ConfigError
from fedcore.pacing import Start, by_peer
from fedcore.strategy import PeerId, Update
from strategies.compass_groups import learned, steps_until
from strategies.limits import counts


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer at work was given: batches, and since when."""

    steps: int
    start_s: float


@dataclass(frozen=True, slots=True)
class Bar:
    """What the pacer knows.

    Attributes:
        jobs: of the peers at work.
        speeds: seconds per batch of every peer heard so far.
        waited: peers of this beat that have not answered; if there are none, the next
            answer is folded at once.
        came: answers that wait for them.
        start_s: when the beat began.
        latest_s: when it ends without them; inf while no speed is known.
    """

    jobs: Mapping[PeerId, Job] = field(default_factory=dict)
    speeds: Mapping[PeerId, float] = field(default_factory=dict)
    waited: frozenset[PeerId] = frozenset()
    came: tuple[Update, ...] = ()
    start_s: float = 0.0
    latest_s: float = inf


@dataclass(frozen=True, slots=True)
class Cadence:
    """Let all peers work for one length of time, the beat.

    Attributes:
        min_steps: Q_min, fewest batches per work, and those of a peer's first, >= 1.
        max_steps: Q_max, most batches per work: those of the fastest peer.
        speed_momentum: weight of the newest measurement of a peer's speed, in (0, 1].
        latest_factor: λ, how long a beat may last as a multiple of T, >= 1.
        max_staleness: folds an answer may be behind; older ones are refused.
    """

    min_steps: int = 5
    max_steps: int = 100
    speed_momentum: float = 0.9
    latest_factor: float = 1.5
    max_staleness: int = 1000

    def __post_init__(self) -> None:
        counts(1, min_steps=self.min_steps)
        counts(self.min_steps, max_steps=self.max_steps)
        if not 0 < self.speed_momentum <= 1:
            raise ConfigError(
                f"speed_momentum must be in (0, 1], not {self.speed_momentum}"
            )
        if not 1 <= self.latest_factor < inf:
            raise ConfigError(
                f"latest_factor must be at least 1 and finite: {self.latest_factor}"
            )

    def init(self) -> Bar:
        return Bar()

    def assign(
        self, pace: Bar, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Bar, Sequence[Start]]:
        free = [p for p in idle if p not in pace.jobs]
        if pace.waited or not free:
            return pace, []
        beat_s = self._beat_s(pace, free)
        steps = {p: self._steps(pace.speeds.get(p), beat_s) for p in free}
        waited = frozenset(p for p in free if self._keeps(pace.speeds.get(p), beat_s))
        jobs = {**pace.jobs, **{p: Job(n, now_s) for p, n in steps.items()}}
        latest_s = now_s + beat_s * self.latest_factor if waited else inf
        pace = replace(pace, jobs=jobs, waited=waited)
        pace = replace(pace, start_s=now_s, latest_s=latest_s)
        return pace, [Start(p, n) for p, n in steps.items()]

    def _beat_s(self, pace: Bar, free: Sequence[PeerId]) -> float:
        """Return T of those who start now or are at work; inf if none is known."""
        known = sorted(pace.speeds[p] for p in {*free, *pace.jobs} & {*pace.speeds})
        if not known:
            return inf
        return max(self.max_steps * known[0], self.min_steps * known[len(known) // 2])

    def _steps(self, step_s: float | None, beat_s: float) -> int:
        """Return the batches of a peer for which one takes ``step_s``."""
        if step_s is None:
            return self.min_steps
        fit = steps_until(beat_s, 0.0, step_s)
        return min(max(fit, self.min_steps), self.max_steps)

    def _keeps(self, step_s: float | None, beat_s: float) -> bool:
        """Whether a peer can keep the beat; while none is known, all may."""
        if step_s is None:
            return beat_s == inf
        return steps_until(beat_s, 0.0, step_s) >= self.min_steps

    def lose(self, pace: Bar, peers: Collection[PeerId], now_s: float) -> Bar:
        gone = frozenset(peers)
        jobs = {p: job for p, job in pace.jobs.items() if p not in gone}
        return replace(pace, jobs=jobs, waited=pace.waited - gone)

    def take(
        self, pace: Bar, updates: Sequence[Update], now_s: float
    ) -> tuple[Bar, Sequence[Update]]:
        for update in updates:
            pace = self._heard(pace, update, now_s)
        if pace.came and pace.waited and pace.latest_s == inf:
            latest_s = pace.start_s + self.latest_factor * (now_s - pace.start_s)
            pace = replace(pace, latest_s=latest_s)
        if pace.waited and now_s < pace.latest_s:
            return pace, []
        came = pace.came
        return replace(pace, waited=frozenset(), came=(), latest_s=inf), by_peer(came)

    def _heard(self, pace: Bar, update: Update, now_s: float) -> Bar:
        """Return the pace with ``update``, knowing how fast its peer is."""
        pace = replace(pace, came=(*pace.came, update))
        job = pace.jobs.get(update.peer)
        if job is None:
            return pace
        old, took_s = pace.speeds.get(update.peer), now_s - job.start_s
        step_s = learned(old, took_s, job.steps, self.speed_momentum)
        jobs = {p: t for p, t in pace.jobs.items() if p != update.peer}
        speeds = {**pace.speeds, update.peer: step_s}
        waited = pace.waited - {update.peer}
        return replace(pace, jobs=jobs, speeds=speeds, waited=waited)

    def deadline_s(self, pace: Bar) -> float:
        return pace.latest_s
