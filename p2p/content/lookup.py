"""Who has a blob? Found among many peers with few questions, and no server.

Each peer keeps the records of the blobs that lie near it (``p2p.content.records``) and
knows many peers near it and a few elsewhere (``p2p.content.buckets``), so that any
search comes to its end in a few hops (``p2p.content.search``). Whoever has a blob
renews its records before they expire; who is gone is forgotten. In a small mesh,
of no more peers than fit into one bucket, a search simply asks all.

Only members may ask: admission is decided outside. A record is taken from its own
provider only, never from others.

Source: Maymounkov and Mazieres, "Kademlia: A peer-to-peer information system based on
the XOR metric", IPTPS 2002; Baumgart and Mies, "S/Kademlia", ICPADS 2007.
"""

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.content.buckets import Buckets
from p2p.content.cid import Cid, digest_of
from p2p.content.directory import Directory
from p2p.content.notices import Notices
from p2p.content.records import (
    TOPIC,
    K,
    Record,
    decode_found,
    encode_have,
    encode_near,
    encode_who,
    make_record,
    target_of,
)
from p2p.content.search import Found, Job, Search
from p2p.identity.keys import Key
from p2p.machine import (
    Answered,
    Ask,
    Asked,
    Down,
    Event,
    Failed,
    Note,
    Ticket,
    Told,
    Up,
    Wake,
    Woken,
)

PATHS = 2
CLOSE = 8  # peers that keep a record; and how near a search must come
ENOUGH = 8  # providers that end a search
TIMEOUT_S = 5.0
TICK_S = 10.0
LIFE_S = 3 * 3600  # of a record
RENEW_S = 3600.0
REFRESH_S = 3600.0  # of a bucket
QUIET_S = 900.0  # until a peer is asked whether it is still there
MAX_SEARCHES = 16  # at once
MAX_QUEUED = 1024
MAX_PROVIDED = 4096


Out = Any  # an Effect, or Found


class Lookup:
    """A ``Machine`` on ``/find/1``.

    Args:
        key: signs records.
        network: name of the network, in which alone the records are good.
        rng: breaks ties; seeded in simulations.
        wall: seconds since the epoch; may jump.
        paths: disjoint paths of a search.
    """

    topics: Collection[str] = (TOPIC,)

    def __init__(
        self,
        key: Key,
        network: str,
        rng: random.Random,
        wall: Callable[[], float],
        *,
        paths: int = PATHS,
    ) -> None:
        self.me = key.peer
        self.buckets = Buckets(self.me)
        self.notices = Notices(self.buckets.place)
        self._directory = Directory(self.buckets, self.notices, network, wall)
        self._key, self._network, self._rng, self._wall = key, network, rng, wall
        self._paths = paths
        self._tickets = itertools.count(1)
        self._calls: dict[Ticket, tuple[PeerId, Job | None]] = {}
        self._running: list[Job] = []
        self._queue: deque[Job] = deque()
        self._finding: set[Cid] = set()
        self._provided: dict[Cid, float] = {}  # blob -> when to say so again
        self._tick_s = self._alarm_s = math.inf
        self._joined = False

    # What its owner says

    def find(self, now_s: float, cid: Cid) -> Sequence[Out]:
        """Find peers that have a blob; ``Found`` says who.

        Raises:
            ProtocolError: ``cid`` is no content id.
            ConfigError: too many searches wait.
        """
        if cid in self._finding:
            return ()
        self._start(Job(target_of(cid), cid))
        self._finding.add(cid)
        return self._go_on(now_s)

    def provide(self, now_s: float, cid: Cid) -> Sequence[Out]:
        """Let others find that this peer has a blob, until ``withdraw``.

        Raises:
            ProtocolError: ``cid`` is no content id.
            ConfigError: too many are provided.
        """
        digest_of(cid)
        if cid not in self._provided and len(self._provided) >= MAX_PROVIDED:
            raise ConfigError(f"{MAX_PROVIDED} blobs are provided already")
        self._provided[cid] = now_s
        self._renew(now_s, cid)
        return self._go_on(now_s)

    def withdraw(self, cid: Cid) -> None:
        """Say no longer that this peer has a blob; records of it expire."""
        self._provided.pop(cid, None)

    @property
    def provided(self) -> set[Cid]:
        """The blobs that others are told of."""
        return set(self._provided)

    @property
    def room(self) -> int:
        """How many blobs more may be provided."""
        return MAX_PROVIDED - len(self._provided)

    # What happens

    def step(self, now_s: float, event: Event) -> Sequence[Out]:
        """See ``p2p.machine.Machine``."""
        out = self._on(now_s, event)
        return [*out, *self._go_on(now_s, tick=now_s >= self._tick_s)]

    def _on(self, now_s: float, event: Event) -> list[Out]:
        match event:
            case Up(peer):
                self.buckets.seen(peer, now_s)
                self._join(now_s)
            case Down(peer):
                self.buckets.failed(peer)
            case Asked():
                return [self._directory.asked(now_s, event)]
            case Told(peer):
                raise ProtocolError(f"{peer} told something; here peers ask")
            case Answered(peer, ticket, body):
                return self._on_answer(now_s, peer, ticket, body)
            case Failed(peer, ticket):
                self._on_failed(ticket, lost=event.lost)
            case Woken():
                self._alarm_s = math.inf
                self._tick_s = min(self._tick_s, now_s)
        return []

    def _on_answer(
        self, now_s: float, peer: PeerId, ticket: Ticket, body: bytes
    ) -> list[Out]:
        asked, job = self._calls.get(ticket, ("", None))
        if asked != peer:
            return []
        del self._calls[ticket]
        self.buckets.seen(peer, now_s)
        if job is None or job.search is None:
            return []
        try:
            peers, records = decode_found(body)
        except ProtocolError as error:
            job.search.failed(peer)
            return [Note("bad-answer", str(error), peer)]
        job.search.answered(peer, peers)
        return self._on_records(job, records)

    def _on_records(self, job: Job, records: Sequence[Record]) -> list[Out]:
        """Report new providers; a record that does not hold is passed over."""
        if not job.finds or job.cid is None:
            return []
        known = {self.me, *job.providers}
        fresh = [r for r in records if r.cid == job.cid and r.peer not in known]
        new = [r.peer for r in fresh if r.life_s and self._directory.holds(r)]
        job.providers.update(dict.fromkeys(new))
        return [Found(job.cid, new, over=False)] if new else []

    def _on_failed(self, ticket: Ticket, *, lost: bool) -> None:
        peer, job = self._calls.pop(ticket, ("", None))
        if peer and lost:
            self.buckets.failed(peer)
        if job is not None and job.search is not None:
            job.search.failed(peer)

    # Searches

    def _start(self, job: Job) -> None:
        if len(self._queue) >= MAX_QUEUED:
            raise ConfigError(f"{MAX_QUEUED} searches wait already")
        self._queue.append(job)

    def _join(self, now_s: float) -> None:
        """Search for this very place at the first contact: neighbours hear of us."""
        if not self._joined:
            self._joined = True
            self._start(Job(self.buckets.place))
            self._tick_s = now_s + TICK_S

    def _go_on(self, now_s: float, *, tick: bool = False) -> list[Out]:
        out = self._tick(now_s) if tick else []
        while self._queue and len(self._running) < MAX_SEARCHES:
            self._run(now_s, self._queue.popleft())
        for job in list(self._running):
            out += self._advance(now_s, job)
        return [*out, *self._wake(now_s)]

    def _run(self, now_s: float, job: Job) -> None:
        few, seeds = len(self.buckets) <= K, self.buckets.nearest(job.target)
        paths, close = (1, K) if few else (self._paths, CLOSE)
        job.search = Search(self.me, job.target, seeds, paths=paths, close=close)
        self.buckets.looked(job.target, now_s)
        self._running.append(job)

    def _advance(self, now_s: float, job: Job) -> list[Out]:
        search = job.search
        if search is None:
            return []
        if search.over or len(job.providers) >= ENOUGH:
            self._running.remove(job)
            job.search = None  # late answers lead nowhere
            return self._finish(now_s, job, search)
        near = encode_near(job.target)
        body = encode_who(job.cid) if job.cid and job.finds else near
        return [self._ask(peer, body, job) for peer in search.next()]

    def _finish(self, now_s: float, job: Job, search: Search) -> list[Out]:
        if job.cid is None:
            return []
        if job.finds:
            self._finding.discard(job.cid)
            return [Found(job.cid, (), True, search.asks, search.hops)]
        record = make_record(self._key, self._network, job.cid, self._wall(), LIFE_S)
        self.notices.keep(record, now_s)
        body = encode_have(record)
        return [self._ask(peer, body, None) for peer in search.nearest(CLOSE)]

    def _ask(self, peer: PeerId, body: bytes, job: Job | None) -> Ask:
        ticket = next(self._tickets)
        self._calls[ticket] = peer, job
        return Ask(peer, TOPIC, body, ticket, TIMEOUT_S)

    # Upkeep

    def _tick(self, now_s: float) -> list[Out]:
        self._tick_s = now_s + TICK_S
        self.notices.expire(now_s)
        for cid, due_s in self._provided.items():
            if due_s <= now_s:
                self._renew(now_s, cid)
        stale = self.buckets.stale(now_s, REFRESH_S, self._rng)
        if stale is not None and not self._queue:
            self._start(Job(stale))
        quiet = self.buckets.doubtful(now_s, QUIET_S)
        near = encode_near(self.buckets.place)
        return [] if quiet is None else [self._ask(quiet, near, None)]

    def _renew(self, now_s: float, cid: Cid) -> None:
        """Say that a blob is here, now if anybody is known, else at a later tick."""
        if len(self.buckets) and len(self._queue) < MAX_QUEUED:
            self._provided[cid] = now_s + RENEW_S * self._rng.uniform(0.8, 1.0)
            self._start(Job(target_of(cid), cid, provide=True))

    def _wake(self, now_s: float) -> list[Out]:
        if math.isinf(self._tick_s) and (self._joined or self._provided):
            self._tick_s = now_s + TICK_S
        if self._tick_s >= self._alarm_s:
            return []
        self._alarm_s = self._tick_s
        return [Wake(self._alarm_s)]
