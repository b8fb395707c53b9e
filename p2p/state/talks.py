"""With whom a replica talks next, and what it still waits for.

One exchange is under way at a time; the rest queues: peers to greet, and peers that
know more than we do.
"""

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
from p2p.state.logs import Logs
from p2p.state.messages import Prove, Pull, Sync, Trace, encode

TOPIC = "/state/1"
GREETINGS = 8  # that wait; later rounds draw anybody
LEVEL_PEERS = 1024  # of whom we remember when we were level

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
    """

    fresh: bool = False
    period_s: float = 2.0
    fanout: int = 3
    timeout_s: float = 10.0
    fresh_key: Callable[[], Key] = Key.fresh


@dataclass
class Talks:
    """Questions under way and to come.

    Attributes:
        logs: what we know.
        rng: draws whom to greet, if there are many.
        timeout_s: longest wait for an answer, in seconds.
        peers: that can be asked.
    """

    logs: Logs
    rng: random.Random
    timeout_s: float
    peers: set[PeerId] = field(default_factory=set)
    _tickets: int = 0
    _ours: bool = False
    _under_way: dict[Ticket, Question] = field(default_factory=dict)
    _exchange: Ticket | None = None
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
        """Return the next question of an exchange, if none is under way."""
        while self._exchange is None and (self._due or self._greet):
            self._ours = not self._ours  # those who ask much do not keep us busy
            if self._due and not (self._ours and self._greet):
                peer, items = self._due.popitem(last=False)
                still = wanted(self.logs, items.values())
                if not still:
                    continue
                question: Sync | Pull = Pull(still)
            else:
                peer = self._greet.popleft()
                question = sync_of(self.logs, self._level.get(peer))
            return [self.exchange(peer, question)]
        return []

    def exchange(self, peer: PeerId, question: Sync | Pull) -> Ask:
        """Return ``question`` as the one exchange that is under way."""
        asked = self.ask(peer, question)
        self._exchange = asked.ticket
        return asked

    def ask(self, peer: PeerId, question: Question) -> Ask:
        """Return ``question`` under a new ticket."""
        self._tickets += 1
        self._under_way[self._tickets] = question
        body = encode(question)
        return Ask(peer, TOPIC, body, self._tickets, self.timeout_s)

    def done(self, ticket: Ticket) -> Question | None:
        """Return the question that is over; None if there was none."""
        if ticket == self._exchange:
            self._exchange = None
        return self._under_way.pop(ticket, None)
