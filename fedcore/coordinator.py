"""The one server loop: strategy (what) x pacer (when) x link (how).

The loop is a pure core in a thin shell. The core (``begin``, ``step_out``,
``step_in``) maps a ``Desk`` and an event to the next ``Desk``; the shell asks the
link for events, writes each into the journal, and only then lets the core act on
it. Replaying the journal through the same core gives the same bits, which is how
a killed coordinator resumes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol

from fedcore.gate import Gate, Refusal
from fedcore.pacing import Pace, Pacer, Start
from fedcore.params import Params
from fedcore.strategy import PeerId, State, Strategy, Update, Work


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a link heard: answers, and peers that will not answer, with the reason."""

    updates: Sequence[Update] = ()
    lost: Mapping[PeerId, str] = field(default_factory=dict)


class Link(Protocol):
    """Peers as the coordinator sees them: send work, wait for answers."""

    def now_s(self) -> float:
        """Return the time in seconds, from any fixed origin."""
        ...

    def idle(self) -> Sequence[PeerId]:
        """Return the peers online with nothing to do, sorted."""
        ...

    def send(self, peer: PeerId, work: Work) -> None:
        """Start ``peer`` on ``work``."""
        ...

    def receive(self, until_s: float) -> Arrivals:
        """Wait for answers until ``until_s``; nothing if the time passed first.

        Raises:
            QuorumError: nobody is at work and nobody will ever come.
        """
        ...

    def resume(self, sent: Mapping[PeerId, "Sent"], now_s: float) -> None:
        """Go on at ``now_s`` with ``sent`` unanswered, after a restart."""
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """Work that is out, and since when."""

    work: Work
    sent_s: float


@dataclass(frozen=True, slots=True)
class Desk(Generic[State, Pace]):
    """All that the coordinator knows: enough to go on after a crash.

    Attributes:
        serial: events taken in so far; the journal's position.
        sent: unanswered work by peer.
        now_s: time of the last event.
    """

    state: State
    pace: Pace
    sent: Mapping[PeerId, Sent] = field(default_factory=dict)
    serial: int = 0
    now_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Idle:
    """Event: these peers were idle, and the pacer was asked to start some."""

    peers: Sequence[PeerId]
    now_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Event: these answers came, or a deadline passed with none."""

    arrivals: Arrivals
    now_s: float


@dataclass(frozen=True, slots=True)
class Fold(Generic[State]):
    """What one event changed, for those who watch.

    Attributes:
        folded: the updates that made this version; empty when none was made.
        refused: what the gate turned away, with reasons.
    """

    state: State
    folded: Sequence[Update]
    refused: Sequence[Refusal]
    lost: Mapping[PeerId, str]
    now_s: float


@dataclass(frozen=True)
class Rules(Generic[State, Pace]):
    """The pure core: strategy, pacer and gate, with no I/O."""

    strategy: Strategy[State]
    pacer: Pacer[Pace]
    gate: Gate = field(default_factory=Gate)

    def begin(self, params: Params) -> Desk[State, Pace]:
        """Return the desk before the first round."""
        return Desk(self.strategy.init(params), self.pacer.init())

    def step_out(
        self, desk: Desk[State, Pace], event: Idle
    ) -> tuple[Desk[State, Pace], Sequence[tuple[PeerId, Work]]]:
        """Return the desk after starting idle peers, and the work to send."""
        pace, starts = self.pacer.assign(desk.pace, event.peers, event.now_s)
        out = [(s.peer, self._work(desk.state, s)) for s in starts]
        sent = {**desk.sent, **{p: Sent(w, event.now_s) for p, w in out}}
        return (
            replace(
                desk, pace=pace, sent=sent, serial=desk.serial + 1, now_s=event.now_s
            ),
            out,
        )

    def _work(self, state: State, start: Start) -> Work:
        work = self.strategy.work(state, start.peer)
        return work if start.steps is None else replace(work, steps=start.steps)

    def step_in(
        self, desk: Desk[State, Pace], event: Heard
    ) -> tuple[Desk[State, Pace], Fold[State]]:
        """Return the desk after taking answers in, and what changed."""
        heard = event.arrivals
        good, refused = self._judge(desk, heard.updates)
        gone = {*heard.lost, *(u.peer for u in good)} | {
            r.peer for r in refused if r.ends_work
        }
        sent = {p: s for p, s in desk.sent.items() if p not in gone}
        dropped = gone - {u.peer for u in good}
        pace = self.pacer.lose(desk.pace, dropped, event.now_s)
        pace, ready = self.pacer.take(pace, good, event.now_s)
        state = self.strategy.apply(desk.state, ready) if ready else desk.state
        after = Desk(state, pace, sent, desk.serial + 1, event.now_s)
        return after, Fold(state, ready, refused, heard.lost, event.now_s)

    def _judge(
        self, desk: Desk[State, Pace], updates: Sequence[Update]
    ) -> tuple[list[Update], list[Refusal]]:
        good: list[Update] = []
        refused: list[Refusal] = []
        waiting = dict(desk.sent)
        for update in updates:
            sent = waiting.get(update.peer)
            refusal = self.gate.refusal(
                update,
                sent.work if sent else None,
                expects=self.strategy.expects,
                stale_after=desk.state.version - self.pacer.max_staleness,
            )
            if refusal is None:
                good.append(update)
                del waiting[update.peer]
            else:
                refused.append(refusal)
        return good, refused


class Journal(Protocol):
    """Where events go before they are acted on. ``fedcore.journal`` keeps a real one."""

    def open(self, rules: Rules[Any, Any], params: Params) -> Desk[Any, Any]:
        """Return the desk to go on from: a recovered one, or a new one."""
        ...

    def record(self, serial: int, event: Idle | Heard) -> None:
        """Make ``event`` durable; when this returns, a crash cannot lose it."""
        ...

    def folded(self, desk: Desk[Any, Any]) -> None:
        """A new version was made; now is a good time for a checkpoint."""
        ...


class NoJournal:
    """Keep nothing: a crash loses the run. For tests and short experiments."""

    def open(self, rules: Rules[Any, Any], params: Params) -> Desk[Any, Any]:
        return rules.begin(params)

    def record(self, serial: int, event: Idle | Heard) -> None:
        return None

    def folded(self, desk: Desk[Any, Any]) -> None:
        return None


def ignore(fold: Fold[Any]) -> None:
    """Watch nothing."""


@dataclass
class Coordinator(Generic[State, Pace]):
    """Runs ``rules`` over ``link`` until enough rounds are folded.

    Attributes:
        watch: called after every event with what changed; must not raise.
    """

    rules: Rules[State, Pace]
    link: Link
    journal: Journal = field(default_factory=NoJournal)
    watch: Callable[[Fold[State]], None] = ignore

    def run(self, params: Params, rounds: int) -> State:
        """Train until ``rounds`` rounds are folded and return the last state.

        Goes on where the journal stops, if it holds an unfinished run.
        """
        desk: Desk[State, Pace] = self.journal.open(self.rules, params)
        if desk.serial:
            self.link.resume(desk.sent, desk.now_s)
        while desk.state.version < rounds:
            desk = self._send(desk)
            desk = self._receive(desk)
        return desk.state

    def _send(self, desk: Desk[State, Pace]) -> Desk[State, Pace]:
        event = Idle(self.link.idle(), self.link.now_s())
        after, out = self.rules.step_out(desk, event)
        if not out and after.pace == desk.pace:
            return desk  # nothing happened: nothing to remember
        self.journal.record(desk.serial, event)
        for peer, work in out:
            self.link.send(peer, work)
        return after

    def _receive(self, desk: Desk[State, Pace]) -> Desk[State, Pace]:
        arrivals = self.link.receive(self.rules.pacer.deadline_s(desk.pace))
        event = Heard(arrivals, self.link.now_s())
        self.journal.record(desk.serial, event)
        after, fold = self.rules.step_in(desk, event)
        if fold.folded:
            self.journal.folded(after)
        self.watch(fold)
        return after


def coordinate(
    strategy: Strategy[State],
    pacer: Pacer[Pace],
    link: Link,
    params: Params,
    rounds: int,
) -> State:
    """Train for ``rounds`` rounds with nothing kept, and return the last state."""
    return Coordinator(Rules(strategy, pacer), link).run(params, rounds)
