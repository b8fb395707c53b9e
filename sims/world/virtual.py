"""Thousands of peers of different speeds on a virtual clock: no waiting, no Ray.

The clock jumps from event to event. What a peer answers is computed when its answer
is first needed, together with all other work that is out, so that an engine with
several workers is kept busy by asynchronous pacers too. When and whether it answers
is drawn from names alone: the number of workers changes nothing, and a restarted
simulation goes on with the same bits.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nextafter

from fedcore.bases import down_bytes
from fedcore.coordinator import Arrivals, Sent
from fedcore.errors import ConfigError, QuorumError
from fedcore.params import size_bytes
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer, steps_of
from sims.engine.loop import Loop
from sims.engine.protocol import Engine, Job
from sims.world.availability import Always, Availability
from sims.world.devices import Constant, Devices, Listed
from sims.world.network import Ideal, Network, Pipe
from sims.world.presence import Presence
from sims.world.site import Site, at

WENT_OFFLINE = "went offline"
GAVE_UP = "gave up"
WORK_LOST = "the work was lost on its way"
ANSWER_LOST = "the answer was lost on its way"

MAX_REPEATS = 16  # a pacer that keeps a deadline that has passed is not heard for ever
MAX_FRUITLESS = 100_000  # nor one that lets peers come and go and starts nobody

SAME_SPEED = Constant()
NO_DELAY = Ideal()
NO_ABSENCE = Always()


@dataclass(slots=True)
class Flight:
    """One piece of work that is out.

    Attributes:
        end_s: when it ends; while the answer is not computed, the earliest it can,
            because the size of the answer, and so its way back, is not known yet.
        off_s: when the peer goes offline.
        ready_s: when the peer has its answer and begins to send it.
        lost: why there will be no answer; empty if there will be one.
        update: the answer, once it is computed.
        up_bytes: its size.
    """

    peer: PeerId
    work: Work
    end_s: float
    off_s: float
    ready_s: float
    pipe: Pipe
    lost: str = ""
    update: Update | None = None
    up_bytes: int = 0

    def answer(self, update: Update) -> None:
        """Take the computed answer in; its size says when it arrives."""
        self.update, self.up_bytes = update, size_bytes(update.payload)
        arrives_s = self.ready_s + self.pipe.up_s(self.up_bytes)
        self.end_s = max(self.end_s, arrives_s)
        if self.off_s < self.end_s:
            self.end_s, self.lost = self.off_s, WENT_OFFLINE


@dataclass
class VirtualLink:
    """A ``fedcore.coordinator.Link`` to simulated peers.

    Attributes:
        engine: computes the answers; a plain trainer runs in this process.
        tasks: every peer's task; may make them lazily, ten thousand cost little.
        devices: speed of every peer, or its seconds per step by name.
        network: connection of every peer.
        availability: hours of every peer.
        seed: of all draws made here.
        ahead: most answers computed together, >= 1; bounds memory.
        down_bytes: bytes of tensors sent to peers, since this link was made; without
            base models, which are there before the first round (``fedcore.bases``).
        up_bytes: bytes of tensors received from peers, since this link was made.
    """

    engine: Engine | Trainer
    tasks: Mapping[PeerId, Task]
    devices: Devices | Mapping[PeerId, float] = SAME_SPEED
    network: Network = NO_DELAY
    availability: Availability = NO_ABSENCE
    seed: int = 0
    ahead: int = 256
    clock_s: float = field(default=0.0, init=False)
    down_bytes: int = field(default=0, init=False)
    up_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("a simulation needs at least one peer")
        if self.ahead < 1:
            raise ConfigError(f"ahead must be >= 1: {self.ahead}")
        self._peers = sorted(self.tasks)
        self._speeds = _devices(self.devices)
        self._run = _engine(self.engine, self.tasks)
        self._restart()

    def _restart(self) -> None:
        """Go to time 0, with nobody at work."""
        sites = [Site(peer, i, self.seed) for i, peer in enumerate(self._peers)]
        self._sites = sites
        self._presence = Presence(self.availability, sites)
        self._idle = [s.peer for s in sites if self._presence.online(s.index)]
        self._flights: dict[PeerId, Flight] = {}
        self._ends: list[tuple[float, PeerId]] = []
        self._passed_s, self._repeats, self._fruitless = -inf, 0, 0
        self.clock_s = 0.0

    def now_s(self) -> float:
        return self.clock_s

    def idle(self) -> Sequence[PeerId]:
        return tuple(self._idle)

    def send(self, peer: PeerId, work: Work) -> None:
        self._fruitless = 0
        self.down_bytes += self._start(peer, work)

    def _start(self, peer: PeerId, work: Work) -> int:
        """Let ``peer`` begin now; return the bytes it is sent."""
        place = bisect_left(self._idle, peer)
        if self._idle[place : place + 1] != [peer]:
            raise ConfigError(f"{peer!r} is not idle: unknown, offline or at work")
        del self._idle[place]
        size = down_bytes(work)
        site = self._sites[bisect_left(self._peers, peer)]
        flight = self._flights[peer] = self._plan(site, work, size)
        heapq.heappush(self._ends, (flight.end_s, peer))
        return size

    def _plan(self, site: Site, work: Work, size: int) -> Flight:
        """Foresee what becomes of ``work``, sent now, without computing it."""
        now_s = self.clock_s
        pipe = self.network.pipe(site, now_s)
        steps = work.steps or steps_of(self.tasks[site.peer], work)
        busy_s = pipe.down_s(size) + steps * self._speeds.step_s(site, now_s)
        off_s = self._presence.off_s(site.index)
        ready_s = now_s + busy_s
        end_s = max(ready_s + pipe.up_s(0), nextafter(now_s, inf))
        flight = Flight(site.peer, work, end_s, off_s, ready_s, pipe)
        fates = [(off_s, WENT_OFFLINE)] if off_s < end_s else []
        fates += _losses(site, pipe, now_s, ready_s)
        share = self.availability.gives_up(site, now_s)
        if share is not None:
            fates.append((now_s + share * busy_s, GAVE_UP))
        if fates:
            lost_s, flight.lost = min(fates)
            flight.end_s = max(lost_s, nextafter(now_s, inf))
        return flight

    def receive(self, until_s: float) -> Arrivals:
        until_s = self._unless_repeated(until_s)
        while True:
            flight, wake_s = self._next_flight(), self._wake_s()
            end_s = flight.end_s if flight else inf
            if min(end_s, wake_s) > until_s:
                return self._pass(until_s)
            if wake_s < end_s:
                if self._advance(wake_s):
                    return Arrivals()
            elif flight is None:
                raise QuorumError(
                    "nobody is at work, nobody will come online, and the pacer "
                    "starts nobody"
                )
            elif flight.update is None and not flight.lost:
                self._compute(until_s)
            else:
                return self._land_all(flight.end_s)

    def _unless_repeated(self, until_s: float) -> float:
        """Return ``until_s``, or inf if the pacer keeps a deadline that has passed."""
        if until_s != self._passed_s or until_s == -inf:  # -inf: it has more to fold
            self._repeats = 0
        return inf if self._repeats >= MAX_REPEATS else until_s

    def _pass(self, until_s: float) -> Arrivals:
        """Let the deadline pass with no answer."""
        self._passed_s, self._repeats = until_s, self._repeats + 1
        self._advance(max(until_s, self.clock_s))
        return Arrivals()

    def _next_flight(self) -> Flight | None:
        """Return the work that ends first; forgets ends that were only estimates."""
        while self._ends:
            end_s, peer = self._ends[0]
            flight = self._flights.get(peer)
            if flight is not None and flight.end_s == end_s:
                return flight
            heapq.heappop(self._ends)
        return None

    def _wake_s(self) -> float:
        """Return when a peer's coming online may matter to the pacer.

        It does when nobody is at work, or when every idle peer was started. While a
        pacer leaves peers idle by choice, one more of them is no news.
        """
        if self._flights and self._idle:
            return inf
        if self._fruitless > MAX_FRUITLESS:
            raise QuorumError(
                f"peers came online {MAX_FRUITLESS} times; the pacer started nobody"
            )
        return self._presence.change_s

    def _advance(self, now_s: float) -> bool:
        """Set the clock and return whether somebody came online and is idle."""
        self.clock_s = now_s
        came = False
        for index in self._presence.advance(now_s):
            peer, online = self._peers[index], self._presence.online(index)
            self._fruitless += online
            if peer in self._flights:
                continue
            if online:
                insort(self._idle, peer)
                came = True
            else:
                del self._idle[bisect_left(self._idle, peer)]
        return came

    def _compute(self, until_s: float) -> None:
        """Compute the answers that are due by ``until_s``, soonest first."""
        due = [
            f
            for f in self._flights.values()
            if f.update is None and not f.lost and f.end_s <= until_s
        ]
        due = sorted(due, key=lambda f: (f.end_s, f.peer))[: self.ahead]
        updates = self._run.run([Job(f.peer, f.work) for f in due])
        for flight, update in zip(due, updates, strict=True):
            estimate_s = flight.end_s
            flight.answer(update)
            if flight.end_s != estimate_s:
                heapq.heappush(self._ends, (flight.end_s, flight.peer))

    def _land_all(self, end_s: float) -> Arrivals:
        """End what ends at ``end_s`` and is known: answers here, and those lost."""
        updates: list[Update] = []
        lost: dict[PeerId, str] = {}
        self._advance(end_s)
        while (flight := self._next_flight()) and flight.end_s == end_s:
            if flight.lost:
                lost[flight.peer] = flight.lost
            elif flight.update is not None:
                self.up_bytes += flight.up_bytes
                updates.append(flight.update)
            else:
                break  # not computed yet: the next call brings it
            self._land(flight)
        return Arrivals(updates, lost)

    def _land(self, flight: Flight) -> None:
        heapq.heappop(self._ends)
        del self._flights[flight.peer]
        if self._presence.online(bisect_left(self._peers, flight.peer)):
            insort(self._idle, flight.peer)

    def resume(self, sent: Mapping[PeerId, Sent], now_s: float) -> None:
        self._restart()
        for peer, out in sorted(sent.items(), key=lambda s: (s[1].sent_s, s[0])):
            self._advance(out.sent_s)
            self._start(peer, out.work)
        self._advance(now_s)


def _losses(
    site: Site, pipe: Pipe, now_s: float, ready_s: float
) -> list[tuple[float, str]]:
    """Return when and why a message of work sent at ``now_s`` is given up, if it is."""
    if pipe.loss and site.uniform("loss down", at(now_s)) < pipe.loss:
        return [(now_s + pipe.notice_s, WORK_LOST)]
    if pipe.loss and site.uniform("loss up", at(now_s)) < pipe.loss:
        return [(ready_s + pipe.notice_s, ANSWER_LOST)]
    return []


def _devices(given: Devices | Mapping[PeerId, float]) -> Devices:
    return Listed(given) if isinstance(given, Mapping) else given


def _engine(given: Engine | Trainer, tasks: Mapping[PeerId, Task]) -> Engine:
    return Loop(given, tasks) if callable(given) else given
