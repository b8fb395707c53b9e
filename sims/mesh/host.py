"""One simulated computer: it boots a machine, feeds it and loses power."""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.machine import Ask, Event, Machine, Ticket
from sims.mesh.clock import Clock
from sims.mesh.place import Disk, Place


@dataclass
class Host:
    """One computer.

    Attributes:
        index: its place in the list of hosts.
        name: one letter for people; a clone has that of its original and a quote.
        original: index of the host whose key it has; its own unless it is a clone.
        machine: what runs on it; None while it has no power.
        boots: how often it was started.
        busy_s: true time until which it takes no event.
        service_s: how long it takes for one event.
        hidden: nobody can dial it.
        lies: what it does against the rules; 0 is nothing.
        crooked: its owner has changed its program; nothing is promised for it.
        cut_effects: effects of the next step that leave before the power goes;
            None for no such plan.
        asked: who asked what, until it is answered, by ticket.
        asking: own questions that are not answered yet, by ticket.
    """

    index: int
    name: str
    original: int
    key: Key
    peer: PeerId
    clock: Clock = field(default_factory=Clock)
    disk: Disk = field(default_factory=Disk)
    machine: Machine | None = None
    boots: int = 0
    busy_s: float = 0.0
    service_s: float = 0.0
    bytes_per_s: float = 1e7  # of its line up
    free_s: float = 0.0  # when its line up has sent what it has
    hidden: bool = False
    lies: int = 0
    crooked: bool = False
    cut_effects: int | None = None
    alarm: int = 0  # counts alarms; only the newest one rings
    asked: dict[Ticket, "Question"] = field(default_factory=dict)
    asked_by: Counter[PeerId] = field(default_factory=Counter)
    asking: dict[Ticket, Ask] = field(default_factory=dict)
    used: set[Ticket] = field(default_factory=set)
    next_ticket: int = 0
    inbox: deque[Event] = field(default_factory=deque)
    turn: int = 0  # counts turns at the inbox; only the newest one is taken
    turning: bool = False  # it is on its way
    steps: int = 0  # since somebody looked
    down_s: float = 1.0  # how long it stays without power the next time
    retired: bool = False  # it never boots again
    rolled_back: bool = False  # an old copy of its disk came back
    cloned: bool = False  # somebody else has its key

    @property
    def up(self) -> bool:
        """Whether it has power."""
        return self.machine is not None

    @property
    def honest(self) -> bool:
        """Whether it keeps the rules."""
        return not (self.lies or self.crooked)

    def place(
        self, peers: Sequence[PeerId], rng: random.Random, true_s: Callable[[], float]
    ) -> Place:
        """Return what its machine is built from."""

        def wall() -> float:
            return self.clock.date(true_s())

        boot, fresh = self.boots - 1, self.boots == 1 and self.index == self.original
        return Place(
            self.original,
            self.index,
            self.key,
            peers,
            boot,
            fresh,
            rng,
            wall,
            self.disk,
        )

    def lose_power(self) -> None:
        """Forget all that was not committed."""
        self.machine = None
        self.cut_effects = None
        self.alarm += 1
        self.turn += 1
        self.turning = False
        self.inbox.clear()
        self.asked.clear()
        self.asked_by.clear()
        self.asking.clear()
        self.used.clear()
        self.disk.crash()


@dataclass(frozen=True, slots=True)
class Question:
    """Where the answer to an ``Asked`` goes.

    Attributes:
        host: who asked.
        boot: in which of its boots.
        ticket: under which of its own tickets.
        at_s: true time at which it arrived.
    """

    host: Host
    boot: int
    ticket: Ticket
    at_s: float
