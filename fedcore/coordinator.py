"""The one server loop: strategy (what) x pacer (when) x link (how).

The loop is a thin shell around a pure core (``fedcore.desk``). It asks the link for
events, lets the core work out what each does, writes it into the journal, and only
then acts on it: sends work, moves to the next desk.

Because the core comes before the journal, an event that makes it fail is not kept:
the desk stays as it was, and the run can be resumed once the cause is gone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol

from fedcore.desk import Arrivals, Desk, Event, Fold, Heard, Idle, Rules, Sent
from fedcore.pacing import Pace, Pacer
from fedcore.params import Params
from fedcore.strategy import PeerId, State, Strategy, Work

__all__ = [
    "Arrivals",
    "Coordinator",
    "Desk",
    "Event",
    "Fold",
    "Heard",
    "Idle",
    "Journal",
    "Link",
    "NoJournal",
    "Rules",
    "Sent",
    "coordinate",
]


class Link(Protocol):
    """Peers as the coordinator sees them: send work, wait for answers.

    What ``receive`` returned is durable once any method of the link is called again;
    only then may the link acknowledge it to the peers. After a restart the same work
    may go out twice (``resume``), so the link drops all but one answer to it.
    """

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

        It may return early with nothing, for instance when a peer came online.

        Raises:
            QuorumError: nobody is at work and nobody will ever come.
        """
        ...

    def resume(self, sent: Mapping[PeerId, Sent], now_s: float) -> None:
        """Go on at ``now_s`` with ``sent`` unanswered, after a restart.

        Peers that no longer have their work get it again; the clock goes on from
        ``now_s``, so that the time between crash and restart does not count.
        """
        ...


class Journal(Protocol):
    """Where events go before they are acted on; ``fedcore.journal`` is a real one."""

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], Iterable[Event]]:
        """Return the desk to go on from, ``begin`` if new, and the events since."""
        ...

    def record(self, serial: int, event: Event) -> None:
        """Make ``event`` durable; when this returns, a crash cannot lose it."""
        ...

    def folded(self, desk: Desk[Any, Any]) -> None:
        """A new version was made and told; now is a good time for a checkpoint."""
        ...

    def save(self, desk: Desk[Any, Any]) -> None:
        """Keep ``desk``, the last one of a finished run."""
        ...

    def close(self) -> None:
        """Let go of files and locks; called however the run ends."""
        ...


class NoJournal:
    """Keep nothing: a crash loses the run. For tests and short experiments."""

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], Iterable[Event]]:
        return begin, ()

    def record(self, serial: int, event: Event) -> None:
        return None

    def folded(self, desk: Desk[Any, Any]) -> None:
        return None

    def save(self, desk: Desk[Any, Any]) -> None:
        return None

    def close(self) -> None:
        return None


def ignore(fold: Fold[Any]) -> None:
    """Watch nothing."""


@dataclass
class Coordinator(Generic[State, Pace]):
    """Runs ``rules`` over ``link`` until enough rounds are folded.

    Attributes:
        watch: called after every answer or loss with what changed, replayed ones
            included, and before a checkpoint makes it impossible to tell it again;
            must not raise.
    """

    rules: Rules[State, Pace]
    link: Link
    journal: Journal = field(default_factory=NoJournal)
    watch: Callable[[Fold[State]], None] = ignore

    def run(self, params: Params, rounds: int) -> State:
        """Train until ``rounds`` rounds are folded and return the last state.

        Goes on where the journal stops, if it holds an unfinished run. It may be
        stopped anywhere, by Ctrl-C or kill -9, and run again.
        """
        try:
            desk = self._recover(self.rules.begin(params))
            if desk.serial and desk.state.version < rounds:
                self.link.resume(desk.sent, desk.now_s)
            while desk.state.version < rounds:
                desk = self._receive(desk) if desk.asked else self._send(desk)
            self.journal.save(desk)
            return desk.state
        finally:
            self.journal.close()

    def _recover(self, begin: Desk[State, Pace]) -> Desk[State, Pace]:
        desk: Desk[State, Pace]
        desk, events = self.journal.open(begin)
        unheard = False  # the newest event made a round: its journal may not know
        for event in events:
            if isinstance(event, Idle):
                desk, _ = self.rules.step_out(desk, event)
                unheard = False
            else:
                desk, fold = self.rules.step_in(desk, event)
                self.watch(replace(fold, replayed=True))
                unheard = bool(fold.folded)
        if unheard:
            self.journal.folded(desk)
        return desk

    def _send(self, desk: Desk[State, Pace]) -> Desk[State, Pace]:
        event = Idle(self.link.idle(), self.link.now_s())
        after, out = self.rules.step_out(desk, event)
        if not out and after.pace == desk.pace:
            return replace(desk, asked=True)  # nothing happened: nothing to remember
        self.journal.record(desk.serial, event)
        for peer, work in out:
            self.link.send(peer, work)
        return after

    def _receive(self, desk: Desk[State, Pace]) -> Desk[State, Pace]:
        arrivals = self.link.receive(self.rules.pacer.deadline_s(desk.pace))
        event = self.rules.judge(desk, arrivals, self.link.now_s())
        after, fold = self.rules.step_in(desk, event)
        heard = arrivals.updates or arrivals.lost or fold.folded
        if not heard and after.pace == desk.pace:
            return replace(desk, asked=False)
        self.journal.record(desk.serial, event)
        self.watch(fold)
        if fold.folded:
            self.journal.folded(after)
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
