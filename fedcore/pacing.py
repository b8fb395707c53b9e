"""Who works now, and when answers are folded: the clock side of an algorithm.

A pacer is pure, like a strategy: time comes in as ``now_s`` and leaves as a
deadline. FedAvg with a cohort, FedBuff and FedCompass differ here and hardly
anywhere else. The shape is that of a sans-I/O protocol (h11, aioquic).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Protocol, TypeVar

from fedcore.errors import ConfigError, QuorumError
from fedcore.seeds import choose
from fedcore.strategy import PeerId, Update

Pace = TypeVar("Pace")


@dataclass(frozen=True, slots=True)
class Start:
    """Set ``peer`` to work, for ``steps`` batches, or the strategy's own number."""

    peer: PeerId
    steps: int | None = None


class Pacer(Protocol[Pace]):
    """Decides who starts and which answers make a round.

    Attributes:
        max_staleness: rounds that may be folded between the work and its answer;
            the gate refuses older answers.
    """

    @property
    def max_staleness(self) -> int: ...

    def init(self) -> Pace:
        """Return the pace before anything has started."""
        ...

    def assign(
        self, pace: Pace, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Pace, Sequence[Start]]:
        """Return who of ``idle`` (sorted) starts now."""
        ...

    def lose(self, pace: Pace, peers: Collection[PeerId], now_s: float) -> Pace:
        """Forget ``peers``: they were at work and will not answer."""
        ...

    def take(
        self, pace: Pace, updates: Sequence[Update], now_s: float
    ) -> tuple[Pace, Sequence[Update]]:
        """Accept ``updates`` (none when a deadline passed); return those to fold.

        The updates to fold are sorted by peer.

        Raises:
            QuorumError: the round cannot be finished, and trying again will not help.
        """
        ...

    def deadline_s(self, pace: Pace) -> float:
        """Return when ``take`` must be called even if nothing arrived.

        inf if there is no such time; -inf if ``take`` has more to fold already.
        """
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """Peers at work, and answers kept for the next fold.

    Attributes:
        round: folds so far.
        tries: cohorts that failed in this round.
        active: a cohort is out; otherwise we wait for peers to come online.
        since_s: when this cohort started, or when we began to wait for peers; -inf
            once that wait is over and the quorum alone is waited for.
    """

    working: frozenset[PeerId] = frozenset()
    kept: tuple[Update, ...] = ()
    round: int = 0
    tries: int = 0
    active: bool = False
    since_s: float | None = None


def by_peer(updates: Sequence[Update]) -> list[Update]:
    """Return ``updates`` in the order in which every runner folds them."""
    return sorted(updates, key=lambda u: (u.peer, u.version))


@dataclass(frozen=True, slots=True)
class Synchronous:
    """Start a cohort together; fold when all have answered, or patience ends.

    Attributes:
        cohort: peers per round, >= 1, drawn without replacement by ``seed``.
        quorum: fewest answers worth folding, in [1, cohort].
        patience_s: longest wait for the cohort's answers, in seconds.
        gather_s: longest wait for ``cohort`` peers to be online, in seconds; after
            it, ``quorum`` peers are enough.
        retries: fresh cohorts tried in one round before giving up.
        seed: of the draw.
    """

    cohort: int = 10
    quorum: int = 1
    patience_s: float = inf
    gather_s: float = 120.0
    retries: int = 3
    seed: int = 0
    max_staleness: ClassVar[int] = 0
    one_each: ClassVar[bool] = True  # no fold holds two answers of one peer

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.cohort:
            raise ConfigError(
                f"quorum must be in [1, cohort]: quorum {self.quorum}, "
                f"cohort {self.cohort}"
            )

    def init(self) -> Waiting:
        return Waiting()

    def assign(
        self, pace: Waiting, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Waiting, Sequence[Start]]:
        if pace.active:
            return pace, []
        if pace.kept:  # a second try: those who answered the first are not asked again
            heard = {u.peer for u in pace.kept}
            idle = [p for p in idle if p not in heard]
        since_s = now_s if pace.since_s is None else pace.since_s
        over = now_s >= since_s + self.gather_s
        if len(idle) < (self.quorum if over else self.cohort) - len(pace.kept):
            return replace(pace, since_s=-inf if over else since_s), []
        count = min(self.cohort - len(pace.kept), len(idle))
        drawn = choose(len(idle), count, "cohort", self.seed, pace.round, pace.tries)
        chosen = [idle[i] for i in drawn]
        working = frozenset(chosen)
        pace = replace(pace, working=working, active=True, since_s=now_s)
        return pace, [Start(p) for p in chosen]

    def lose(self, pace: Waiting, peers: Collection[PeerId], now_s: float) -> Waiting:
        return replace(pace, working=pace.working - set(peers))

    def take(
        self, pace: Waiting, updates: Sequence[Update], now_s: float
    ) -> tuple[Waiting, Sequence[Update]]:
        working = pace.working - {u.peer for u in updates}
        pace = replace(pace, working=working, kept=(*pace.kept, *updates))
        if pace.active and working and now_s < self.deadline_s(pace):
            return pace, []
        if len(pace.kept) >= self.quorum:  # late answers may bring it between cohorts
            return Waiting(round=pace.round + 1), by_peer(pace.kept)
        if not pace.active:
            return pace, []
        if pace.tries >= self.retries:
            raise QuorumError(
                f"round {pace.round}: {len(pace.kept)} of {self.quorum} answers "
                f"after {pace.tries + 1} cohorts"
            )
        return Waiting(kept=pace.kept, round=pace.round, tries=pace.tries + 1), []

    def deadline_s(self, pace: Waiting) -> float:
        if pace.since_s is None or pace.since_s == -inf:
            return inf
        return pace.since_s + (self.patience_s if pace.active else self.gather_s)


@dataclass(frozen=True, slots=True)
class Buffered:
    """Keep peers busy; fold whenever ``size`` answers have come in.

    Source:
        Nguyen et al., "Federated Learning with Buffered Asynchronous
        Aggregation" (FedBuff), AISTATS 2022. https://arxiv.org/abs/2106.06639

    Attributes:
        size: K, answers per fold, >= 1.
        concurrency: peers at work at once; 0 keeps every idle peer busy.
        max_staleness: folds an answer may be behind; older ones are refused.
        seed: of the draw, when there are more idle peers than places.
    """

    size: int = 10
    concurrency: int = 0
    max_staleness: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.concurrency < 0:
            raise ConfigError(
                f"size must be >= 1 and concurrency >= 0: {self.size}, "
                f"{self.concurrency}"
            )

    def init(self) -> Waiting:
        return Waiting()

    def assign(
        self, pace: Waiting, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Waiting, Sequence[Start]]:
        room = len(idle)
        if self.concurrency:
            room = min(room, self.concurrency - len(pace.working))
        if room <= 0:
            return pace, []
        if room == len(idle):
            chosen = list(idle)
        else:
            drawn = choose(len(idle), room, "buffered", self.seed, pace.tries)
            chosen = [idle[i] for i in drawn]
        working = pace.working | set(chosen)
        pace = replace(pace, working=working, tries=pace.tries + 1)
        return pace, [Start(p) for p in chosen]

    def lose(self, pace: Waiting, peers: Collection[PeerId], now_s: float) -> Waiting:
        return replace(pace, working=pace.working - set(peers))

    def take(
        self, pace: Waiting, updates: Sequence[Update], now_s: float
    ) -> tuple[Waiting, Sequence[Update]]:
        working = pace.working - {u.peer for u in updates}
        kept = (*pace.kept, *updates)
        pace = replace(pace, working=working, kept=kept)
        if len(kept) < self.size:
            return pace, []
        pace = replace(pace, kept=kept[self.size :], round=pace.round + 1)
        return pace, by_peer(kept[: self.size])

    def deadline_s(self, pace: Waiting) -> float:
        return -inf if len(pace.kept) >= self.size else inf  # the next fold is here
