"""What is known of the way to one wanted peer, and what to try next.

Two things are wanted of it: *control*, a connection of the transport (direct, or else
through a relay), and a *channel* for data (direct, or else spliced). Each has its own
attempts and its own growing pauses.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from fedcore.names import PeerId
from p2p.circuit import is_circuit
from p2p.machine import Ticket
from p2p.nat.effects import Opened


class Goal(Enum):
    """What an attempt is for."""

    DIAL = "control, directly"
    CIRCUIT = "control, through a relay"
    OPEN = "a channel"
    CLOSER = "direct control in place of relayed"
    UPGRADE = "a direct channel in place of a spliced one"
    WIDER = "one more channel beside a direct one"


PAUSES = {  # the first and the longest pause after failures, in seconds
    Goal.DIAL: (1.0, 60.0),
    Goal.CIRCUIT: (1.0, 60.0),
    Goal.OPEN: (3.0, 300.0),
    Goal.CLOSER: (30.0, 900.0),
    Goal.UPGRADE: (30.0, 900.0),
    Goal.WIDER: (30.0, 900.0),
}


OPENING = (Goal.OPEN, Goal.UPGRADE, Goal.WIDER)  # a channel


@dataclass
class Attempt:
    """Something under way."""

    goal: Goal
    ticket: Ticket
    since_s: float


@dataclass
class Road:
    """The way to ``peer``.

    Attributes:
        first: whether we, not the peer, are to begin (the smaller id is).
        wanted: whether it is to be connected; else this is only what we know of it.
        addresses: multiaddrs, best first.
        up: whether the transport is connected.
        relay: through whom it is, if not directly.
        channel: the data channel, if there is one.
        attempt: what is under way.
        recent: when the attempts of the last minute began.
        why: what went wrong last, in words.
        narrow: whether one more channel is wanted beside a direct one.
    """

    peer: PeerId
    first: bool
    wanted: bool = False
    addresses: tuple[str, ...] = ()
    up: bool = False
    relay: PeerId | None = None
    channel: Opened | None = None
    attempt: Attempt | None = None
    recent: deque[float] = field(default_factory=deque)
    fails: dict[Goal, int] = field(default_factory=dict)
    due_s: dict[Goal, float] = field(default_factory=dict)
    why: str = ""
    narrow: bool = False

    def plan(self) -> tuple[float, Goal] | None:
        """Return when to try what next; None if nothing is left to be wished."""
        if self._at_its_best():
            return None
        plans = [(self.due_s.get(goal, 0.0), goal) for goal in self._goals()]
        return min(plans, key=lambda plan: plan[0], default=None)

    def _at_its_best(self) -> bool:
        """Return whether there is nothing to wish, as for most roads at most times."""
        channel = self.channel
        direct = channel is not None and channel.relay is self.relay is None
        return direct and self.up and not self.narrow

    def _goals(self) -> list[Goal]:
        """Return what is worth trying; the first of equally due ones comes first."""
        if self.attempt is not None or not self.wanted:
            return []
        goals = []
        if not self.up:
            goals += [Goal.DIAL] if self.of(Goal.DIAL) else []
            goals += [Goal.CIRCUIT] if self.of(Goal.CIRCUIT) else []
        elif self.channel is None:
            goals.append(Goal.OPEN)
        elif self.channel.relay is not None:
            goals.append(Goal.UPGRADE)
        elif self.narrow:
            goals.append(Goal.WIDER)
        if self.up and self.relay is not None and self.of(Goal.CLOSER):
            goals.append(Goal.CLOSER)
        return goals

    def of(self, goal: Goal) -> tuple[str, ...]:
        """Return the addresses for ``goal``."""
        through = goal is Goal.CIRCUIT
        return tuple(a for a in self.addresses if is_circuit(a) is through)

    def failed(self, goal: Goal, now_s: float, rng: random.Random, why: str) -> None:
        """Note that an attempt failed; the next one waits longer."""
        count = self.fails.get(goal, 0)
        start_s, most_s = PAUSES[goal]
        wait_s = min(most_s, start_s * 2.0**count) * rng.uniform(0.5, 1.5)
        self.fails[goal] = min(count + 1, 30)
        self.due_s[goal] = now_s + wait_s
        if not self.up or goal is Goal.OPEN:
            self.why = why

    def rest(self, goal: Goal, now_s: float, wait_s: float) -> None:
        """Begin with ``goal`` anew, after ``wait_s`` seconds."""
        self.fails.pop(goal, None)
        self.due_s[goal] = now_s + wait_s

    def renew(self, now_s: float, spread: Callable[[], float]) -> None:
        """Forget all pauses, as after a change of network."""
        for goal in Goal:
            self.rest(goal, now_s, spread())

    @property
    def words(self) -> str:
        """The way in words, for people."""
        if self.channel is not None:
            return self.channel.path
        if self.up:
            return f"relayed by {self.relay}" if self.relay else "direct (control only)"
        if not self.addresses:
            return "waiting: no address of the peer is known"
        return f"waiting: {self.why or 'the first attempt is under way'}"
