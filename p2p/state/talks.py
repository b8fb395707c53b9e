"""With whom a replica talks next, and what it still waits for.

One exchange is under way at a time, so that nothing is fetched from two peers; the rest
queues: peers to greet, and peers that know more than we do. Who has not answered after
a second holds up nobody: then the next exchange begins beside it, four in all and one
with a peer. Who let a question time out is *mute* until it says something, and greeted
only now and then.
"""

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.machine import Ask, Ticket
from p2p.state.chain import WRITERS
from p2p.state.encoding import Item
from p2p.state.exchange import sync_of, wanted
from p2p.state.logs import QUOTA_BYTES, Logs
from p2p.state.messages import Prove, Pull, Sync, Trace, encode

TOPIC = "/state/1"
GREETINGS = 8  # that wait; later rounds draw anybody
LEVEL_PEERS = 1024  # of whom we remember when we were level
EXCHANGES = 4  # at once, if some take longer than this:
PATIENCE_S = 1.0
MUTE_GREETED = 8  # of so many greetings one may be for a peer that is mute

Question = Sync | Pull | Trace | Prove


@dataclass(frozen=True, slots=True)
class Habits:
    """How a replica behaves.

    Attributes:
        fresh: the key was made just now, so that no life before this one can have
            written anything; see ``p2p.state.author``.
        period_s: seconds between exchanges, on average.
        fanout: peers that are told at once what we write.
        timeout_s: longest wait for an answer, in seconds.
        fresh_key: makes keys for further logs.
        quota_bytes: of the logs on disk, about; see ``p2p.state.shown``.
    """

    fresh: bool = False
    period_s: float = 2.0
    fanout: int = 3
    timeout_s: float = 10.0
    fresh_key: Callable[[], Key] = Key.fresh
    quota_bytes: int = QUOTA_BYTES


@dataclass
class Talks:
    """Questions under way and to come.

    Attributes:
        logs: what we know.
        rng: draws whom to greet, if there are many.
        timeout_s: longest wait for an answer, in seconds.
        now_s: of the last step.
        peers: that can be asked.
        mute: those of them that have let our last question time out.
    """

    logs: Logs
    rng: random.Random
    timeout_s: float
    now_s: float = 0.0
    peers: set[PeerId] = field(default_factory=set)
    mute: set[PeerId] = field(default_factory=set)
    _tickets: int = 0
    _ours: bool = False
    _under_way: dict[Ticket, Question] = field(default_factory=dict)
    _exchanges: dict[Ticket, tuple[PeerId, float]] = field(default_factory=dict)
    _greet: deque[PeerId] = field(default_factory=deque)
    _due: OrderedDict[PeerId, dict[PeerId, Item]] = field(default_factory=OrderedDict)
    _level: OrderedDict[PeerId, bytes] = field(default_factory=OrderedDict)

    def up(self, peer: PeerId) -> None:
        """``peer`` can be asked: greet it if that is new."""
        if peer not in self.peers:
            self.peers.add(peer)
            self.greet(peer)

    def down(self, peer: PeerId) -> None:
        """``peer`` cannot be asked any more."""
        self.peers.discard(peer)
        self.mute.discard(peer)
        self._due.pop(peer, None)
        self._greet = deque(other for other in self._greet if other != peer)

    def greet(self, peer: PeerId) -> None:
        """Tell ``peer`` how far we are, when it is its turn.

        If many wait it takes the place of one of them: when a whole network starts,
        not everybody should greet the same few first.
        """
        if peer not in self.peers or peer in self._greet:
            return
        if len(self._greet) < GREETINGS:
            self._greet.append(peer)
        else:
            self._greet[self.rng.randrange(GREETINGS)] = peer

    def greet_any(self) -> None:
        """Greet somebody, drawn at random."""
        loud = self.peers - self.mute
        seldom = self.mute and not self.rng.randrange(MUTE_GREETED)
        if some := self.peers if seldom or not loud else loud:
            self.greet(self.rng.choice(sorted(some)))

    def want(self, peer: PeerId, items: Iterable[Item]) -> None:
        """``peer`` knows more of these writers: ask it when it is its turn."""
        found = {item.writer: item for item in items}
        if found and peer in self.peers:
            due = self._due.setdefault(peer, {})
            due.update(found)
            for writer in list(due)[: max(0, len(due) - WRITERS)]:
                del due[writer]  # it has told of more than there can be

    def level(self, peer: PeerId, root: bytes) -> None:
        """``peer`` had this root, and so had we."""
        self.logs.changes.pin(self.logs.root())
        self._level[peer] = root
        self._level.move_to_end(peer)
        if len(self._level) > LEVEL_PEERS:
            self._level.popitem(last=False)

    def apart(self, peer: PeerId) -> None:
        """``peer`` does not remember when we were level."""
        self._level.pop(peer, None)

    def next(self) -> list[Ask]:
        """Return the next question of an exchange, if there is time for one."""
        while self._idle() and (self._due or self._greet):
            self._ours = not self._ours  # those who ask much do not keep us busy
            question: Sync | Pull
            if self._due and not (self._ours and self._greet):
                peer, items = self._due.popitem(last=False)
                still = wanted(self.logs, items.values())
                if not still:
                    continue
                question = Pull(still)
            else:
                peer = self._greet.popleft()
                question = sync_of(self.logs, self._level.get(peer))
            if peer not in (busy for busy, _ in self._exchanges.values()):
                return [self.exchange(peer, question)]
        return []

    def exchange(self, peer: PeerId, question: Sync | Pull) -> Ask:
        """Return ``question`` as an exchange that is under way."""
        asked = self.ask(peer, question)
        self._exchanges[asked.ticket] = peer, self.now_s
        return asked

    def _idle(self) -> bool:
        """Return whether another exchange may begin."""
        begun = [began_s for _, began_s in self._exchanges.values()]
        slow = max(begun, default=-math.inf) + PATIENCE_S <= self.now_s
        return slow and len(begun) < EXCHANGES

    def ask(self, peer: PeerId, question: Question) -> Ask:
        """Return ``question`` under a new ticket."""
        self._tickets += 1
        self._under_way[self._tickets] = question
        body = encode(question)
        return Ask(peer, TOPIC, body, self._tickets, self.timeout_s)

    def done(self, ticket: Ticket) -> Question | None:
        """Return the question that is over; None if there was none."""
        self._exchanges.pop(ticket, None)
        return self._under_way.pop(ticket, None)
