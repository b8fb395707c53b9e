"""Laws of the path policy under any luck: it ends connected, and never storms."""

import heapq
import itertools
import random
from collections import defaultdict

import pytest

from p2p.machine import Down, Note, Up, Wake, Woken
from p2p.nat.addresses import Address, Candidate
from p2p.nat.effects import (
    Book,
    Closed,
    Dial,
    Dialled,
    Here,
    Narrow,
    NotDialled,
    NotOpened,
    Open,
    Opened,
    Unwanted,
)
from p2p.nat.paths import Paths

HOUR_S = 3600.0
HERE = Here((Candidate("lan", Address("192.168.1.2", 4001)),))
DIRECT, CIRCUIT = "/ip4/45.33.1.9/tcp/1", "/ip4/45.33.1.8/tcp/1/p2p/r/p2p-circuit"


class Luck:
    """A world that answers effects late, wrongly, or not at all.

    Attributes:
        ways: per peer, which of "direct", "circuit", "channel" and "splice" exist.
    """

    def __init__(self, seed, peers=5, **options):
        self.rng = random.Random(seed)
        self.paths = Paths("m", itertools.count(), random.Random(seed + 1), **options)
        self.queue, self.numbers, self.now_s = [], itertools.count(), 0.0
        self.ways = {f"{'az'[i % 2]}{i}": self._ways() for i in range(peers)}
        self.begun = defaultdict(list)
        self.alarm_s = float("inf")
        self.most_busy = 0
        self.at(0.0, HERE)
        for peer in self.ways:
            self.at(self.rng.uniform(0, 5), Book(peer, (DIRECT, CIRCUIT)))

    def _ways(self):
        kinds = ["direct", "circuit", "channel", "splice"]
        return {kind for kind in kinds if self.rng.random() < 0.5}

    def at(self, time_s, event):
        heapq.heappush(self.queue, (time_s, next(self.numbers), event))

    def run(self, until_s):
        while self.queue or self.alarm_s < float("inf"):
            next_s = min(self.alarm_s, self.queue[0][0] if self.queue else HOUR_S * 99)
            if next_s > until_s:
                break
            self.now_s = max(self.now_s, next_s)
            due = self.queue and self.queue[0][0] <= self.now_s
            if not due:
                self.alarm_s = float("inf")
            self.step(heapq.heappop(self.queue)[2] if due else Woken())
        self.now_s = until_s

    def step(self, event):
        for effect in self.paths.step(self.now_s, event):
            if isinstance(effect, Wake):
                self.alarm_s = effect.at_s
            elif isinstance(effect, Dial | Open):
                self.begun[effect.peer].append(self.now_s)
                self.answer(effect)
        self.most_busy = max(self.most_busy, self.paths.busy)

    def answer(self, effect):
        late_s = self.now_s + self.rng.choice([0.01, 0.3, 5.0, 20.0])
        if self.rng.random() < 0.05:
            return  # the answer is lost; the machine must not wait for ever
        ways = self.ways[effect.peer] if self.rng.random() < 0.9 else set()
        self.at(late_s, self._dialled(effect, ways))

    def _dialled(self, effect, ways):
        peer, ticket = effect.peer, effect.ticket
        if isinstance(effect, Open):
            if "channel" in ways:
                return Opened(peer, ticket, "direct (punched)")
            if "splice" in ways and not effect.direct_only:
                return Opened(peer, ticket, "relayed by r", "r")
            return NotOpened(peer, ticket, "bad luck")
        if effect.addresses == (DIRECT,) and "direct" in ways:
            return Dialled(peer, ticket)
        if effect.addresses == (CIRCUIT,) and "circuit" in ways:
            return Dialled(peer, ticket, "r")
        return NotDialled(peer, ticket, "bad luck")

    def trouble(self, until_s):
        """Everything breaks now and then, and ways come and go."""
        for _ in range(40):
            peer = self.rng.choice(list(self.ways))
            event = self.rng.choice(
                [
                    Up(peer),
                    Down(peer),
                    Closed(peer),
                    Unwanted(peer),
                    HERE,
                    Here(()),
                    Woken(),
                ]
            )
            time_s = self.rng.uniform(self.now_s, until_s)
            self.at(time_s, event)
            if isinstance(event, Unwanted):  # and wanted again a little later
                self.at(time_s + self.rng.uniform(0, 9), Book(peer, (DIRECT, CIRCUIT)))


def reached(luck, peer):
    ways, road = luck.ways[peer], luck.paths._roads[peer]
    assert road.up == bool(ways & {"direct", "circuit"})
    if not road.up:
        return
    assert (road.channel is not None) == bool(ways & {"channel", "splice"})
    if "channel" in ways:
        assert road.words == "direct (punched)"
    if "direct" in ways:
        assert road.relay is None


def ends_connected(seed):
    luck = Luck(seed)
    luck.trouble(HOUR_S / 4)
    luck.run(HOUR_S / 4)
    luck.ways = {peer: luck._ways() for peer in luck.ways}
    for peer, ways in luck.ways.items():  # what worked before works no more, once
        if not ways & {"direct", "circuit"}:  # the last answers are in
            luck.at(luck.now_s + 30, Down(peer))
        luck.at(luck.now_s + 30, Closed(peer))
    luck.run(1.5 * HOUR_S)
    for peer in luck.ways:
        reached(luck, peer)


@pytest.mark.parametrize("seed", range(10))
def test_who_can_be_reached_ends_connected_by_the_best_way(seed):
    ends_connected(seed)


@pytest.mark.slow
def test_so_under_many_other_seeds():
    for seed in range(1000, 1120):
        ends_connected(seed)


@pytest.mark.parametrize("seed", range(3))
def test_no_peer_is_tried_more_often_than_agreed(seed):
    luck = Luck(seed, peers=12, a_minute=6, parallel=3)
    for _ in range(30):
        luck.trouble(600.0)
    luck.run(600.0)
    assert luck.begun
    for times in luck.begun.values():
        assert all(b - a > 60 - 1e-6 for a, b in zip(times, times[6:], strict=False))
    assert luck.most_busy <= 3


def test_a_run_repeats_bit_for_bit():
    runs = [Luck(7), Luck(7)]
    for luck in runs:
        luck.trouble(600.0)
        luck.run(HOUR_S)
    assert runs[0].begun == runs[1].begun
    assert runs[0].paths.words == runs[1].paths.words


def test_what_fails_is_tried_for_ever_but_ever_less_often():
    luck = Luck(3, peers=1)
    (peer,) = luck.ways
    luck.ways[peer] = set()
    luck.run(24 * HOUR_S)
    times = luck.begun[peer]
    assert times[-1] > 23.9 * HOUR_S
    assert len(times) < 24 * 60 * 4


@pytest.mark.parametrize("alone_s", [10, 20, 35, 50, HOUR_S])
@pytest.mark.parametrize("seed", range(5))
def test_a_new_network_is_tried_at_once(seed, alone_s):
    luck = Luck(seed, peers=1)
    (peer,) = luck.ways
    luck.ways[peer] = set()
    luck.answer = lambda effect: luck.at(luck.now_s, luck._dialled(effect, set()))
    luck.run(alone_s)
    before = len(luck.begun[peer])
    luck.at(alone_s, Here(()))
    luck.run(alone_s + 1)
    assert len(luck.begun[peer]) >= before + 2  # by both of its addresses


def test_a_spliced_channel_that_began_elsewhere_is_replaced_soon():
    for moved, soon in ((False, False), (True, True)):
        paths = Paths("m", itertools.count(), random.Random(0))
        paths.step(0.0, HERE)
        paths.step(0.0, Book("z", (DIRECT,)))
        (begun,) = [e for e in paths.step(1.0, Up("z")) if isinstance(e, Open)]
        if moved:
            paths.step(1.5, Here(()))
        paths.step(2.0, Opened("z", begun.ticket, "relayed by r", "r"))
        effects = paths.step(3.0, Woken())
        assert [e.direct_only for e in effects if isinstance(e, Open)] == [True] * soon


def orders(effects):
    return [(e.direct_only, e.beside) for e in effects if isinstance(e, Open)]


def test_one_more_channel_is_opened_beside_a_direct_one_when_it_is_narrow():
    paths = Paths("m", itertools.count(), random.Random(0))
    paths.step(0.0, HERE)
    paths.step(0.0, Book("z", (DIRECT,)))
    paths.step(0.0, Narrow("nobody"))
    (begun,) = [e for e in paths.step(1.0, Up("z")) if isinstance(e, Open)]
    paths.step(2.0, Opened("z", begun.ticket, "direct (punched)"))
    effects = paths.step(3.0, Narrow("z"))
    assert orders(effects) == [(True, True)]
    ticket = next(e.ticket for e in effects if isinstance(e, Open))
    paths.step(4.0, Opened("z", ticket, "direct (public address)", None, beside=True))
    assert paths.words["z"] == "direct (punched)"  # that of the first, which goes on
    assert orders(paths.step(5.0, Woken())) == []
    (again,) = [e for e in paths.step(6.0, Narrow("z")) if isinstance(e, Open)]
    paths.step(7.0, NotOpened("z", again.ticket, "no way"))
    assert orders(paths.step(8.0, Narrow("z"))) == []  # after a failure, not at once
    assert orders(paths.step(60.0, Woken())) == [(True, True)]
    paths.step(61.0, Closed("z"))
    assert orders(paths.step(130.0, Woken())) == [(False, False)]


def test_a_spliced_channel_is_made_direct_before_it_gets_another():
    paths = Paths("m", itertools.count(), random.Random(0))
    paths.step(0.0, HERE)
    paths.step(0.0, Book("z", (DIRECT,)))
    (begun,) = [e for e in paths.step(1.0, Up("z")) if isinstance(e, Open)]
    paths.step(2.0, Opened("z", begun.ticket, "relayed by r", "r"))
    assert orders(paths.step(3.0, Narrow("z"))) == []
    assert orders(paths.step(60.0, Woken())) == [(True, False)]


def test_peers_beyond_the_limit_are_refused_by_name():
    paths = Paths("m", itertools.count(), random.Random(0), most=1)
    paths.step(0.0, Book("a", (DIRECT,)))
    notes = [e for e in paths.step(0.0, Book("b", ())) if isinstance(e, Note)]
    assert [(n.kind, n.peer) for n in notes] == [("too-many", "b")]


def test_the_way_is_said_in_words():
    paths = Paths("m", itertools.count(), random.Random(0))
    paths.step(0.0, HERE)
    paths.step(0.0, Book("a", ()))
    assert paths.words["a"] == "waiting: no address of the peer is known"
    (dial,) = [
        effect
        for now_s in (0.0, 1.0)
        for effect in paths.step(now_s, Book("a", (CIRCUIT,)))
        if isinstance(effect, Dial)
    ]
    paths.step(1.0, Dialled("a", dial.ticket, "r"))
    assert paths.words["a"] == "relayed by r"
    paths.step(2.0, Opened("a", 99, "direct (punched)"))
    assert paths.words["a"] == "direct (punched)"
    paths.step(3.0, Closed("a"))
    paths.step(3.0, Down("a", "the relay is gone"))
    assert paths.words["a"] == "waiting: the relay is gone"


def test_what_came_before_a_peer_was_wanted_is_not_done_again():
    paths = Paths("m", itertools.count(), random.Random(0))
    paths.step(0.0, HERE)
    paths.step(0.0, Up("z"))
    paths.step(1.0, Opened("z", 99, "direct (punched)"))
    assert paths.words == {}
    effects = paths.step(2.0, Book("z", (DIRECT,)))
    assert not [e for e in effects if isinstance(e, Dial | Open)]
    assert paths.words == {"z": "direct (punched)"}
    paths.step(3.0, Unwanted("z"))
    paths.step(4.0, Closed("z"))
    paths.step(5.0, Down("z"))
    assert not paths._roads


def test_strangers_make_room_for_who_is_wanted():
    paths = Paths("m", itertools.count(), random.Random(0), most=3)
    for number in range(10):
        paths.step(0.0, Up(f"stranger{number}"))
    for number in range(3):
        paths.step(0.0, Book(f"friend{number}", (DIRECT,)))
    assert len(paths._roads) == 3
    assert set(paths.words) == {"friend0", "friend1", "friend2"}
