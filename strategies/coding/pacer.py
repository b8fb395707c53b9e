"""When a coded round ends: soon after its first answer, but not before it may.

Source: the straggler rule of Krishnan et al., ICLR 2023, section 4: whoever takes more
than 1 + μ times as long as the fastest worker is a straggler. See
``strategies.coding.schedules`` for what we wait for beyond that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar

from fedcore.config import choice
from fedcore.errors import ConfigError, QuorumError
from fedcore.pacing import Start, by_peer
from fedcore.strategy import PeerId, Update
from strategies.coding.codes import Mask
from strategies.coding.machine import (
    NOT_BEGUN,
    Progress,
    Schedule,
    begin,
    enough,
    following,
    heard,
    mask_of,
)


@dataclass(frozen=True, slots=True)
class Lap:
    """Where the pacer is.

    Attributes:
        roster: workers by number; empty before the roll call.
        progress: the same machine as the strategy's.
        working: peers at work, on this round or still on an older one.
        asked: peers that were asked in this round.
        kept: answers of this round.
        since_s: when this round's first work went out; None before.
        first_s: when its first answer came; None before.
        late: the time of those who are no stragglers is over.
        tries: times that all who did not answer were asked again.
    """

    roster: tuple[PeerId, ...] = ()
    progress: Progress = NOT_BEGUN
    working: frozenset[PeerId] = frozenset()
    asked: frozenset[PeerId] = frozenset()
    kept: tuple[Update, ...] = ()
    since_s: float | None = None
    first_s: float | None = None
    late: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Coded:
    """Wait for quick workers, and for more only where the scheme needs them.

    The first round is a roll call, which waits for ``cohort`` peers. A worker that is
    still busy with an older round joins when it is back; its old answer is refused.

    Attributes:
        cohort: workers, >= 1.
        scheme: what the strategy does; follows it.
        slack: μ, >= 0: a round ends 1 + slack times as long after its start as the
            first answer came, or later where the scheme needs more answers.
        patience_s: longest wait for enough answers, in seconds.
        retries: times that those who failed are asked again in one round.
    """

    cohort: int = 10
    scheme: Schedule = choice(
        "strategies.coding.schedules:SCHEDULES", "gradient-coding"
    )
    slack: float = 1.0
    patience_s: float = inf
    retries: int = 3
    max_staleness: ClassVar[int] = 0
    one_each: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.cohort < 1 or not 0 <= self.slack < inf or not self.patience_s > 0:
            raise ConfigError(
                "cohort must be >= 1, slack finite and >= 0, patience_s > 0: "
                f"{self.cohort}, {self.slack}, {self.patience_s}"
            )
        self._for(self.cohort)

    def _for(self, workers: int) -> Schedule:
        known: Any = self.scheme  # a frozen dataclass, whichever it is
        schedule: Schedule = replace(known, workers=workers)
        return schedule

    def init(self) -> Lap:
        return Lap()

    def assign(
        self, pace: Lap, idle: Sequence[PeerId], now_s: float
    ) -> tuple[Lap, Sequence[Start]]:
        fresh = [p for p in idle if p not in pace.asked]
        if pace.roster:
            fresh = [p for p in fresh if p in pace.roster]
        else:
            fresh = fresh[: max(0, self.cohort - len(pace.asked))]
        if not fresh:
            return pace, []
        since_s = now_s if pace.since_s is None else pace.since_s
        asked, working = pace.asked | set(fresh), pace.working | set(fresh)
        pace = replace(pace, asked=asked, working=working, since_s=since_s)
        return pace, [Start(p) for p in fresh]

    def lose(self, pace: Lap, peers: Collection[PeerId], now_s: float) -> Lap:
        return replace(pace, working=pace.working - set(peers))

    def take(
        self, pace: Lap, updates: Sequence[Update], now_s: float
    ) -> tuple[Lap, Sequence[Update]]:
        working = pace.working - {u.peer for u in updates}
        first_s = now_s if updates and pace.first_s is None else pace.first_s
        kept = (*pace.kept, *updates)
        pace = replace(pace, working=working, kept=kept, first_s=first_s)
        pace = replace(pace, late=pace.late or now_s >= self._straggling_s(pace))
        if pace.kept and self._over(pace, now_s):
            return self._next(pace), by_peer(kept)
        return self._again(pace, now_s), []

    def _straggling_s(self, pace: Lap) -> float:
        """Return when those who have not answered are stragglers."""
        if pace.since_s is None or pace.first_s is None:
            return inf
        return pace.since_s + (1 + self.slack) * (pace.first_s - pace.since_s)

    def _given_up_s(self, pace: Lap) -> float:
        return inf if pace.since_s is None else pace.since_s + self.patience_s

    def _over(self, pace: Lap, now_s: float) -> bool:
        """Return whether the round ends now."""
        if not pace.roster:
            return len(pace.kept) >= self.cohort or now_s >= self._given_up_s(pace)
        everybody = len(pace.kept) == len(pace.roster)
        schedule = self._for(len(pace.roster))
        over = everybody or pace.late or not pace.working
        return over and enough(schedule, pace.progress, _present(pace))

    def _next(self, pace: Lap) -> Lap:
        """Return the pace after this round is folded."""
        if not pace.roster:
            roster = tuple(sorted(u.peer for u in pace.kept))
            return Lap(roster, begin(self._for(len(roster))), pace.working)
        schedule = self._for(len(pace.roster))
        progress = heard(schedule, pace.progress, _present(pace))
        return Lap(pace.roster, following(schedule, progress), pace.working)

    def _again(self, pace: Lap, now_s: float) -> Lap:
        """Return the pace of a round that goes on; ask again those who failed.

        Raises:
            QuorumError: patience is over, or all was tried.
        """
        answered = frozenset(u.peer for u in pace.kept)
        waited_for = pace.working or pace.asked <= answered  # or others come online
        patient = now_s < self._given_up_s(pace)
        if patient and waited_for:
            return pace
        if not patient or pace.tries >= self.retries:
            raise QuorumError(
                f"round {pace.progress.round}: {len(pace.kept)} of "
                f"{len(pace.roster) or self.cohort} workers answered, too few to "
                "decode: raise pacer.patience_s or strategy.stragglers"
            )
        return replace(pace, asked=answered, tries=pace.tries + 1)

    def deadline_s(self, pace: Lap) -> float:
        if pace.late:
            return self._given_up_s(pace)
        return min(self._straggling_s(pace), self._given_up_s(pace))


def _present(pace: Lap) -> Mask:
    """Return the workers that answered in this round."""
    known = {peer: i for i, peer in enumerate(pace.roster)}
    return mask_of([known[u.peer] for u in pace.kept])
