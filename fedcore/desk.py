"""The pure core of the server loop: a desk, and the events that change it.

``Rules`` maps a ``Desk`` and an event to the next ``Desk`` and does nothing else: no
clock, no network, no disk. ``fedcore.coordinator`` is the shell that carries out what
it says. Putting the same events through the same rules gives the same bits, which is
how a killed coordinator resumes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias

from fedcore.errors import ConfigError
from fedcore.gate import Gate, Refusal
from fedcore.hierarchy.aggregate import Aggregator
from fedcore.hierarchy.eager import Piles, light, pile_size, piled, unpiled
from fedcore.pacing import Pace, Pacer, Start
from fedcore.params import Params
from fedcore.strategy import PeerId, State, Strategy, Update, Work


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a link heard: answers, and peers that will not answer, with the reason."""

    updates: Sequence[Update] = ()
    lost: Mapping[PeerId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sent:
    """Work that is out, and since when."""

    work: Work
    sent_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """How many answers a peer has given to work of ``version``."""

    version: int
    count: int


@dataclass(frozen=True, slots=True)
class Desk(Generic[State, Pace]):
    """All that the coordinator knows: enough to go on after a crash.

    Attributes:
        serial: events taken in so far; the journal's position.
        sent: unanswered work by peer.
        now_s: time of the last event.
        asked: the pacer was asked to start peers since the last answers came.
        kept: what simulated peers keep; real ones keep it themselves.
        piles: answers not folded yet, as sums; empty without an aggregator.
        turns: who has answered to the present version already.
    """

    state: State
    pace: Pace
    sent: Mapping[PeerId, Sent] = field(default_factory=dict)
    serial: int = 0
    now_s: float = 0.0
    asked: bool = False
    kept: Mapping[PeerId, Params] = field(default_factory=dict)
    piles: Piles = ()
    turns: Mapping[PeerId, Turn] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idle:
    """Event: these peers were idle, and the pacer was asked to start some."""

    peers: Sequence[PeerId]
    now_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Event: these answers came, or a deadline passed with none.

    Of what the gate turned away only the reason is kept: bad answers must neither
    fill the journal nor be read again.
    """

    updates: Sequence[Update]
    refused: Sequence[Refusal]
    lost: Mapping[PeerId, str]
    now_s: float


Event: TypeAlias = Idle | Heard


@dataclass(frozen=True, slots=True)
class Fold(Generic[State]):
    """What one event changed, for those who watch.

    Attributes:
        folded: the updates that made this version; empty when none was made. They
            have no payloads if an aggregator summed these as they came.
        refused: what the gate turned away, with reasons.
        serial: of the event. A resumed run tells its last folds again, to the same
            bits: the first one it tells replaces all from that serial on.
        replayed: read from the journal at a restart; it happened before the crash.
    """

    state: State
    folded: Sequence[Update]
    refused: Sequence[Refusal]
    lost: Mapping[PeerId, str]
    now_s: float
    serial: int = 0
    replayed: bool = False


@dataclass(frozen=True)
class Rules(Generic[State, Pace]):
    """Strategy, pacer and gate: what to do, when, and with whom.

    A strategy may have a method ``unfit(update) -> str | None``: why it cannot fold an
    answer that has passed the gate. Such an answer is refused for that reason.

    Attributes:
        aggregator: sums answers as they come, so that no payload waits for its fold
            (``fedcore.hierarchy``); None keeps them. The bits are the same.

    Raises:
        ConfigError: there is an aggregator, and the strategy needs more than sums or
            the pacer does not say beforehand what it folds together.
    """

    strategy: Strategy[State]
    pacer: Pacer[Pace]
    gate: Gate = field(default_factory=Gate)
    aggregator: Aggregator | None = None

    def __post_init__(self) -> None:
        if self.aggregator is not None:
            pile_size(self.strategy, self.pacer)

    def begin(self, params: Params) -> Desk[State, Pace]:
        """Return the desk before the first round."""
        return Desk(self.strategy.init(params), self.pacer.init())

    def step_out(
        self, desk: Desk[State, Pace], event: Idle
    ) -> tuple[Desk[State, Pace], Sequence[tuple[PeerId, Work]]]:
        """Return the desk after starting idle peers, and the work to send."""
        pace, starts = self.pacer.assign(desk.pace, event.peers, event.now_s)
        out = [(s.peer, self._work(desk, s)) for s in starts]
        sent = {**desk.sent, **{p: Sent(w, event.now_s) for p, w in out}}
        serial, now_s = desk.serial + 1, event.now_s
        after = replace(
            desk, pace=pace, sent=sent, serial=serial, now_s=now_s, asked=True
        )
        return after, out

    def _work(self, desk: Desk[State, Pace], start: Start) -> Work:
        work = self.strategy.work(desk.state, start.peer)
        if start.peer in desk.kept:
            work = replace(work, kept=desk.kept[start.peer])
        turn = desk.turns.get(start.peer)
        if turn is not None and turn.version == work.version:
            work = replace(work, hints={**work.hints, "turn": turn.count})
        return work if start.steps is None else replace(work, steps=start.steps)

    def judge(self, desk: Desk[State, Pace], arrivals: Arrivals, now_s: float) -> Heard:
        """Return the event that ``arrivals`` are, bad answers turned away."""
        good: list[Update] = []
        refused: list[Refusal] = []
        waiting = dict(desk.sent)
        for update in arrivals.updates:
            known = isinstance(update.peer, str)
            sent = waiting.get(update.peer) if known else None
            refusal = self.gate.refusal(
                update,
                sent.work if sent else None,
                expects=self.strategy.expects,
                stale_after=desk.state.version - self.pacer.max_staleness,
            ) or self._unfit(update)
            if refusal is None:
                good.append(update)
                del waiting[update.peer]
            else:
                refused.append(refusal)
        return Heard(good, refused, arrivals.lost, now_s)

    def _unfit(self, update: Update) -> Refusal | None:
        judge = getattr(self.strategy, "unfit", None)
        reason = judge(update) if judge else None
        if not reason:
            return None
        return Refusal(update.peer, "unfit", reason, ends_work=True)

    def step_in(
        self, desk: Desk[State, Pace], event: Heard
    ) -> tuple[Desk[State, Pace], Fold[State]]:
        """Return the desk after taking answers in, and what changed."""
        good = [_timed(u, desk.sent, event.now_s) for u in event.updates]
        answered = {u.peer for u in good}
        dropped = {*event.lost} | {r.peer for r in event.refused if r.ends_work}
        dropped -= answered
        sent = dict(desk.sent)
        for peer in dropped | answered:
            sent.pop(peer, None)
        pace = desk.pace
        if dropped:
            pace = self.pacer.lose(pace, dropped, event.now_s)
        pace, ready, piles, state = self._fold(desk, pace, good, event.now_s)
        fresh = {u.peer: u.keep for u in event.updates if u.keep}
        kept = {**desk.kept, **fresh} if fresh else desk.kept
        serial = desk.serial + 1
        after = Desk(
            *(state, pace, sent, serial, event.now_s),
            kept=kept,
            piles=piles,
            turns=_turns(desk, answered, state.version),
        )
        return after, Fold(
            state, ready, event.refused, event.lost, event.now_s, desk.serial
        )

    def _fold(
        self, desk: Desk[State, Pace], pace: Pace, good: Sequence[Update], now_s: float
    ) -> tuple[Pace, Sequence[Update], Piles, State]:
        """Return the pace, what it folds, the sums left, and the state after it."""
        piles = desk.piles
        if self.aggregator is None and piles:
            raise ConfigError(
                "answers were summed as they came before this run was stopped: go on "
                "with an aggregator, as before"
            )
        if self.aggregator is not None:
            size = pile_size(self.strategy, self.pacer)
            piles = piled(piles, good, size, self.aggregator)
            good = light(good)
        pace, ready = self.pacer.take(pace, good, now_s)
        if not ready:
            return pace, ready, piles, desk.state
        folded = ready
        if self.aggregator is not None:
            piles, folded = unpiled(piles, ready)
        return pace, ready, piles, self.strategy.apply(desk.state, folded)


def _turns(
    desk: Desk[Any, Any], answered: Collection[PeerId], version: int
) -> dict[PeerId, Turn]:
    """Return the turns at ``version`` after answers of ``answered``."""
    if version != desk.state.version:
        return {}  # nobody has work of a version that was just made
    turns = dict(desk.turns)
    for peer in answered:
        if peer in desk.sent and desk.sent[peer].work.version == version:
            count = turns[peer].count if peer in turns else 0
            turns[peer] = Turn(version, count + 1)
    return turns


def _timed(update: Update, sent: Mapping[PeerId, Sent], now_s: float) -> Update:
    """Return ``update`` with what we know of it ourselves, and nothing private."""
    out = sent.get(update.peer)
    known = {} if out is None else {"took_s": now_s - out.sent_s}
    if out is not None and "turn" in out.work.hints:
        known["turn"] = float(out.work.hints["turn"])  # even if the peer left it out
    return replace(update, metrics={**update.metrics, **known}, keep={})
