"""Whom to be connected with, and how: always connected if any way exists.

For every peer in the book: the transport first, at its direct addresses, then through
relays; then a data channel, direct or else spliced. What is lost is dialled again for
ever, with growing pauses; what is relayed is replaced by what is direct when that
becomes possible. No peer is tried more than ``a_minute`` times within a minute, and
no more than ``parallel`` peers at a time. What only repeats a failure may not use all
of that: a machine that starts before its network has tries left when that comes.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.machine import Down, Note, Ticket, Up, Wake
from p2p.nat.effects import (
    Book,
    Closed,
    Dial,
    Dialled,
    Here,
    Narrow,
    NatEvent,
    NotDialled,
    NotOpened,
    Open,
    Opened,
    Unwanted,
    UpBy,
)
from p2p.nat.roads import OPENING, Attempt, Goal, Road

Wish = Dial | Open | Note | Wake

MOST_ADDRESSES = 16
_GIVEN_UP_S = 60.0  # an attempt that nobody answers for so long has failed
_SECOND_S = 2.0  # how long the greater id leaves the beginning to the smaller
_UPGRADE_S = 30.0
_MINUTE_S = 60.0
_FOR_NEWS = 0.4  # of a minute's attempts, kept for peers of whom there is news


@dataclass
class Paths:
    """The machine. Its effects are ``Dial``, ``Open`` (for ``Direct``) and the usual.

    Attributes:
        me: our peer id.
        tickets: fresh numbers for attempts.
        rng: spreads attempts.
        parallel: attempts at a time.
        a_minute: attempts for one peer within a minute.
        most: peers at most; further ones are refused by a ``Note``.
    """

    me: PeerId
    tickets: Iterator[Ticket]
    rng: random.Random
    parallel: int = 8
    a_minute: int = 10
    most: int = 1024
    here: Here | None = None
    _here_s: float = 0.0
    _roads: dict[PeerId, Road] = field(default_factory=dict)

    def step(self, now_s: float, event: NatEvent) -> Sequence[Wish]:
        """Take ``event``; return new attempts, and the next alarm if one is due."""
        about = getattr(event, "peer", None)
        before = {about: self._words(about)} if about is not None else {}
        effects = self._take(now_s, event)
        effects += self._attempts(now_s)
        effects += [
            Note("path", f"{peer}: {self._words(peer)}", peer)
            for peer, words in before.items()
            if self._words(peer) not in ("", words)
        ]
        due_s = self._next_s(now_s)
        return effects if due_s is None else [*effects, Wake(due_s)]

    @property
    def words(self) -> Mapping[PeerId, str]:
        """The way to every wanted peer, in words."""
        return {p: road.words for p, road in self._roads.items() if road.wanted}

    @property
    def busy(self) -> int:
        """How many attempts are under way."""
        return sum(road.attempt is not None for road in self._roads.values())

    def _words(self, peer: PeerId) -> str:
        road = self._roads.get(peer)
        return road.words if road is not None and road.wanted else ""

    def _take(self, now_s: float, event: NatEvent) -> list[Wish]:
        match event:
            case Book():
                return self._learn(now_s, event)
            case Here():
                self._moved(now_s, event)
            case Unwanted(peer):
                if peer in self._roads:
                    self._roads[peer].wanted = False
                    self._forget_idle(peer)
            case Up() | UpBy() | Down() | Dialled() | NotDialled():
                self._control(now_s, event)
            case Opened() | NotOpened() | Closed():
                self._data(now_s, event)
            case Narrow(peer) if peer in self._roads:
                self._roads[peer].narrow = True
            case _:
                pass
        return []

    def _learn(self, now_s: float, book: Book) -> list[Wish]:
        if book.peer == self.me:
            return []
        if book.peer not in self._roads:
            self._make_room()
        road = self._road(book.peer)
        if road is None:
            words = f"already {self.most} peers are wanted"
            return [Note("too-many", words, book.peer)]
        road.wanted = True
        addresses = book.addresses[:MOST_ADDRESSES]
        if set(addresses) - set(road.addresses):  # a new address is worth a try now
            for goal in (Goal.DIAL, Goal.CIRCUIT, Goal.CLOSER):
                road.rest(goal, now_s, self._spread())
        road.addresses = addresses
        return []

    def _road(self, peer: PeerId) -> Road | None:
        """Return what is known of ``peer``, wanted or not; None if there is no room."""
        if peer not in self._roads and len(self._roads) < self.most:
            self._roads[peer] = Road(peer, self.me < peer)
        return self._roads.get(peer)

    def _make_room(self) -> None:
        """Forget somebody who is not wanted, if the table is full."""
        unwanted = (p for p, road in self._roads.items() if not road.wanted)
        if len(self._roads) >= self.most and (peer := next(unwanted, None)):
            del self._roads[peer]

    def _forget_idle(self, peer: PeerId) -> None:
        road = self._roads[peer]
        if not (road.wanted or road.up or road.channel or road.attempt):
            del self._roads[peer]

    def _moved(self, now_s: float, here: Here) -> None:
        moved = self.here is not None and self.here != here
        self.here = here
        if moved:
            self._here_s = now_s
            for road in self._roads.values():
                road.renew(now_s, self._spread)

    def _control(
        self, now_s: float, event: Up | UpBy | Down | Dialled | NotDialled
    ) -> None:
        road = self._road(event.peer)
        if road is None:
            return
        match event:
            case Down(why=why):
                road.up, road.why = False, why or "the connection was lost"
                road.rest(Goal.DIAL, now_s, self._spread())
                road.rest(Goal.CIRCUIT, now_s, self._spread() + 0.5)
            case NotDialled(ticket=ticket, why=why):
                self._failed(road, now_s, ticket, why)
            case Dialled(ticket=ticket, relay=relay):
                self._ended(road, ticket)
                self._connected(road, now_s, relay)
            case UpBy(relay=relay):
                self._connected(road, now_s, relay)
            case Up():
                self._connected(road, now_s, road.relay)
        self._forget_idle(event.peer)

    def _connected(self, road: Road, now_s: float, relay: PeerId | None) -> None:
        if not road.up and road.channel is None:
            turn_s = 0.0 if road.first else _SECOND_S
            road.rest(Goal.OPEN, now_s, turn_s)
        if relay is not None and (not road.up or road.relay is None):
            road.rest(Goal.CLOSER, now_s, _UPGRADE_S * self.rng.uniform(0.5, 1.5))
        road.up, road.relay, road.why = True, relay, ""
        for goal in (Goal.DIAL, Goal.CIRCUIT):
            road.fails.pop(goal, None)

    def _data(self, now_s: float, event: Opened | NotOpened | Closed) -> None:
        road = self._road(event.peer)
        if road is None:
            return
        if isinstance(event, NotOpened):
            self._failed(road, now_s, event.ticket, event.why)
        elif isinstance(event, Opened):
            tried = self._ended(road, event.ticket)
            if event.beside and road.channel is not None:
                return
            road.channel, road.why = event, ""
            wait_s = _UPGRADE_S * self.rng.uniform(0.5, 1.5)
            soon = tried is not None and self._outdated(tried)
            road.rest(Goal.UPGRADE, now_s, self._spread() if soon else wait_s)
        else:
            road.channel, road.why = None, event.why
            turn_s = 0.0 if road.first else _SECOND_S
            road.rest(Goal.OPEN, now_s, turn_s + self._spread())
        self._forget_idle(event.peer)

    def _ended(self, road: Road, ticket: Ticket) -> Attempt | None:
        """Return the attempt that is over, if it is the one under way."""
        if road.attempt is None or road.attempt.ticket != ticket:
            return None
        attempt, road.attempt = road.attempt, None
        return attempt

    def _failed(self, road: Road, now_s: float, ticket: Ticket, why: str) -> None:
        attempt = self._ended(road, ticket)
        if attempt is not None:
            road.failed(attempt.goal, now_s, self.rng, why)
            if self._outdated(attempt):
                road.rest(attempt.goal, now_s, self._spread())

    def _outdated(self, attempt: Attempt) -> bool:
        """Return whether it began where we were before: another may do better."""
        return attempt.since_s < self._here_s

    def _attempts(self, now_s: float) -> list[Wish]:
        """Begin what is due, as long as hands are free; the longest due first."""
        self._give_up(now_s)
        due = [
            (plan[0], road)
            for road in self._roads.values()
            for plan in [self._plan(road, now_s)]
            if plan is not None and plan[0] <= now_s
        ]
        due.sort(key=lambda pair: pair[0])
        free = max(0, self.parallel - self.busy)
        return [self._begin(road, now_s) for _, road in due[:free]]

    def _plan(self, road: Road, now_s: float) -> tuple[float, Goal] | None:
        """Return the next step for ``road``, no earlier than its budget allows."""
        plan = road.plan()
        if plan is None or (plan[1] in OPENING and not self.here):
            return None
        while road.recent and road.recent[0] + _MINUTE_S <= now_s:
            road.recent.popleft()
        again = bool(road.fails.get(plan[1]))
        most = self.a_minute - int(self.a_minute * _FOR_NEWS) * again
        over = len(road.recent) - most
        free_s = road.recent[over] + _MINUTE_S if over >= 0 else 0.0
        return max(plan[0], free_s), plan[1]

    def _begin(self, road: Road, now_s: float) -> Dial | Open:
        plan = road.plan()
        assert plan is not None  # noqa: S101 - the caller has just seen one
        goal, ticket = plan[1], next(self.tickets)
        road.attempt, road.narrow = Attempt(goal, ticket, now_s), False
        road.recent.append(now_s)
        if goal in OPENING:
            beside = goal is Goal.WIDER
            return Open(road.peer, ticket, goal is not Goal.OPEN, beside)
        return Dial(road.peer, road.of(goal), ticket)

    def _give_up(self, now_s: float) -> None:
        for road in self._roads.values():
            attempt = road.attempt
            if attempt is not None and attempt.since_s + _GIVEN_UP_S <= now_s:
                self._failed(road, now_s, attempt.ticket, "nobody answered")

    def _next_s(self, now_s: float) -> float | None:
        """Return when something is due again; None if only events can help."""
        times = [
            road.attempt.since_s + _GIVEN_UP_S
            for road in self._roads.values()
            if road.attempt is not None
        ]
        if self.busy < self.parallel:
            plans = (self._plan(road, now_s) for road in self._roads.values())
            times += [plan[0] for plan in plans if plan is not None]
        return max(now_s, min(times)) if times else None

    def _spread(self) -> float:
        """Return a short pause, so that many peers do not all act at once."""
        return self.rng.uniform(0.0, 0.5)
