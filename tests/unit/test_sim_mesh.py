"""The simulator of meshes: it is honest about faults, and it finds planted bugs."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from fedcore.cli import commands, full_parser
from fedcore.errors import ConfigError, ProtocolError
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Refuse,
    Tell,
    Told,
    Up,
    Wake,
    Woken,
)
from sims.cli.mesh import cases_of, numbers_of
from sims.mesh.catalog import SCENES, maker
from sims.mesh.clock import Clock
from sims.mesh.faults import ALL, Faults
from sims.mesh.place import Place
from sims.mesh.register import NumberStore, Register
from sims.mesh.scene import Case, play, ranges
from sims.mesh.scene_register import RegisterScene
from sims.mesh.shrink import Shrinker
from sims.mesh.trace import Trace
from sims.mesh.weight import weight_bytes
from sims.mesh.world import World

TOPIC = "/chat/1"
NOTHING = Faults()


@dataclass
class Chatter:
    """Tells and asks all it is connected to each second, and keeps what it sees."""

    place: Place
    seen: list[tuple[float, Event]] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    tickets: int = 0
    talks: bool = True

    @property
    def topics(self) -> Collection[str]:
        return (TOPIC,)

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        self.seen.append((now_s, event))
        match event:
            case Up(peer) if peer not in self.peers:
                self.peers.append(peer)
            case Down(peer, _) if peer in self.peers:
                self.peers.remove(peer)
            case Asked(_, _, body, ticket):
                odd = body.endswith(b"1")
                return [Refuse(ticket, "odd") if odd else Answer(ticket, body)]
            case Woken():
                return [*self._talk(), Wake(now_s + 1.0)]
        return []

    def _talk(self) -> list[Effect]:
        out: list[Effect] = []
        for peer in self.peers if self.talks else []:
            self.tickets += 1
            body = str(self.tickets).encode()
            out += [Tell(peer, TOPIC, body), Ask(peer, TOPIC, body, self.tickets, 8.0)]
        return out

    def events(self, *kinds: type) -> list[Event]:
        return [event for _, event in self.seen if isinstance(event, kinds)]


@dataclass
class Chat:
    """Chatters by host and boot, with the world that they live in."""

    faults: Faults = NOTHING
    nodes: int = 4
    seed: int = 1
    made: list[Chatter] = field(default_factory=list)

    def world(self, **options: object) -> World:
        return World(self.seed, self.build, nodes=self.nodes, faults=self.faults,
                     **options)  # fmt: skip

    def build(self, place: Place) -> Chatter:
        self.made.append(Chatter(place))
        return self.made[-1]


def run_chat(
    faults: Faults, seconds: float = 60.0, seed: int = 1
) -> tuple[Chat, World]:
    chat = Chat(faults, seed=seed)
    world = chat.world(chaos_s=seconds)
    assert world.run(seconds), world.violation
    return chat, world


def test_without_faults_all_connect_and_every_question_is_answered_once():
    chat, world = run_chat(Faults())
    for chatter in chat.made:
        assert sorted(chatter.peers) == sorted({*world.peers} - {chatter.place.peer})
        ends = chatter.events(Answered, Failed)
        tickets = [event.ticket for event in ends]
        assert len(tickets) == len(set(tickets)) >= chatter.tickets - 3
        assert all(not event.lost for event in ends if isinstance(event, Failed))
        assert not chatter.events(Down)
    assert not world.trace.tally["lost"]


def test_refusals_arrive_with_their_words_and_are_not_called_lost():
    chat, _ = run_chat(Faults())
    failed = [e for chatter in chat.made for e in chatter.events(Failed)]
    assert {(event.why, event.lost) for event in failed} == {("odd", False)}


def test_loss_loses_about_its_share_of_messages():
    chat, world = run_chat(Faults(loss=0.25), 60)
    told = sum(len(c.events(Told)) for c in chat.made)
    sent = sum(c.tickets for c in chat.made)
    assert 0.70 < told / sent < 0.80
    assert world.trace.tally["lost"] > 100


def test_a_lost_question_fails_at_its_deadline_and_not_before():
    chat, _ = run_chat(Faults(loss=0.5), 40)
    late = [e for c in chat.made for e in c.events(Failed) if e.lost]
    assert late
    assert {event.why for event in late} == {"no answer in time"}


def test_duplicates_come_twice_but_no_question_ends_twice():
    chat, world = run_chat(Faults(duplicate=0.5))
    assert world.trace.tally["duplicated"] > 100
    for chatter in chat.made:
        tickets = [event.ticket for event in chatter.events(Answered, Failed)]
        assert len(tickets) == len(set(tickets))
    sent = sum(c.tickets for c in chat.made)
    assert sum(len(c.events(Told)) for c in chat.made) > 1.3 * sent
    assert sum(len(c.events(Asked)) for c in chat.made) <= sent


def test_late_messages_are_overtaken():
    def swaps(faults: Faults) -> int:
        chat, world = run_chat(faults)
        peers = world.peers
        return sum(
            int(a.body) > int(b.body)
            for c in chat.made
            for peer in peers
            for said in [[e for e in c.events(Told) if e.peer == peer]]
            for a, b in pairwise(said)
        )

    assert swaps(Faults()) == 0
    assert swaps(Faults(late=0.5)) > 20


def test_a_power_cut_ends_a_machine_and_a_new_one_boots_with_the_same_disk():
    chat, world = run_chat(Faults(crashes=20))
    assert len(chat.made) > 6
    assert world.trace.tally["power cut"] == len(chat.made) - 4
    again = [c for c in chat.made if c.place.boot == 1]
    first = next(c for c in chat.made if c.place.peer == again[0].place.peer)
    assert first.place.disk is again[0].place.disk
    assert isinstance(again[0].seen[0][1], Woken)
    assert first.place.rng.random() != again[0].place.rng.random()


def test_a_cut_makes_both_sides_lose_each_other_and_it_heals():
    chat = Chat()
    world = chat.world()
    assert world.run(10)
    world.cut(0, frozenset({0, 1}), 0)
    assert world.run(40)
    names = {c.place.index: set(c.peers) for c in chat.made}
    peers = world.peers
    assert names == {
        0: {peers[1]}, 1: {peers[0]}, 2: {peers[3]}, 3: {peers[2]},
    }  # fmt: skip
    before = len(chat.made[0].events(Told))
    world.air.cuts.clear()
    assert world.run(60)
    assert all(len(c.peers) == 3 for c in chat.made)
    assert len(chat.made[0].events(Told)) > before + 30


def test_a_one_way_cut_stops_messages_one_way_until_it_is_noticed():
    chat = Chat(nodes=2)
    world = chat.world()
    assert world.run(10)
    by_index = {c.place.index: c for c in chat.made}
    world.cut(0, frozenset({0}), 1)  # nothing leaves host 0
    heard = {i: len(c.events(Told)) for i, c in by_index.items()}
    assert world.run(11.9)
    assert len(by_index[1].events(Told)) == heard[1]
    assert len(by_index[0].events(Told)) > heard[0]


def test_hidden_hosts_connect_to_all_but_each_other():
    chat = Chat()
    world = chat.world()
    world.hosts[1].hidden = world.hosts[2].hidden = True
    assert world.run(30)
    peers = {c.place.index: set(c.peers) for c in chat.made}
    assert world.peers[2] not in peers[1]
    assert [len(peers[i]) for i in range(4)] == [3, 2, 2, 3]


def test_clocks_have_their_own_zero_rate_and_date():
    chat, world = run_chat(Faults(skewed=1, drifting=1), 30)
    dates = [c.place.wall() for c in chat.made]
    assert max(dates) - min(dates) > 3600
    assert len({round(c.seen[0][0]) for c in chat.made}) == 4
    rates = {host.clock.rate for host in world.hosts}
    assert len(rates) == 4
    assert all(0.95 <= rate <= 1.05 for rate in rates)


def test_a_clock_never_goes_back_and_rings_when_it_should():
    clock = Clock(rate=1.05, zero_s=123.0)
    assert clock.when(clock.read(77.7)) == pytest.approx(77.7)
    chat, _ = run_chat(Faults(drifting=1, pauses=5, jumps=10))
    for chatter in chat.made:
        times = [now_s for now_s, _ in chatter.seen]
        assert times == sorted(times)


def test_nobody_is_woken_before_the_clock_shows_the_time():
    dice = random.Random(1)
    for _ in range(1000):
        clock = Clock(dice.uniform(0.95, 1.05), dice.uniform(-1e6, 1e6))
        shown_s = clock.read(dice.uniform(0, 1000)) + dice.random()
        late_s = clock.read(clock.when(shown_s)) - shown_s
        assert 0 <= late_s < 1e-6
    slow = Clock(0.9984317250483764, 0.00016369829714997419)
    shown_s = 255.74944061582048  # the true time has a coarser last bit
    assert slow.read(slow.when(shown_s)) >= shown_s


def test_a_paused_host_hears_all_of_it_afterwards():
    chat = Chat(nodes=2)
    world = chat.world()
    world.run(10)
    world.hosts[0].busy_s = 25.0
    first = next(c for c in chat.made if c.place.index == 0)
    seen = len(first.seen)
    world.run(24.9)
    assert len(first.seen) == seen
    world.run(25.1)
    assert len(first.seen) > seen + 14


def test_a_clone_has_the_key_and_a_copy_of_the_disk():
    scene = RegisterScene()
    world = World(5, scene.build, nodes=3, faults=Faults(clones=3), chaos_s=60)
    scene.begin(world)
    assert world.run(60)
    twins = [host for host in world.hosts if host.original != host.index]
    assert twins
    original = world.hosts[twins[0].original]
    assert (twins[0].peer, twins[0].key) == (original.peer, original.key)
    assert twins[0].disk.stores["number"] is not original.disk.stores["number"]


def test_one_seed_is_one_run_and_another_seed_is_another():
    one, again, two = (
        play(Case("register", seed, minutes=0.5), RegisterScene) for seed in (1, 1, 2)
    )
    assert one.digest == again.digest != two.digest
    assert one.tally == again.tally


def test_the_digest_sees_one_changed_byte_and_the_trace_is_bounded():
    one, two = Trace(kept=3), Trace(kept=3)
    for trace, body in ((one, b"ab"), (two, b"aB")):
        for i in range(9):
            trace.add(float(i), "a", "told b", body if i == 2 else b"")
    assert one.digest != two.digest
    assert len(one.text().splitlines()) == 4
    assert one.text().startswith("... 6 lines before")


@dataclass
class Hasty(Register):
    """Answers before it stores: the planted bug."""

    def set(self, value: int) -> Sequence[Effect]:
        if value > self.store.get():
            self.store.put(value)  # and no commit
        return ()


@dataclass
class HastyScene(RegisterScene):
    def build(self, place: Place) -> Register:
        return Hasty(place.disk.keep("number", NumberStore), place.rng)


def test_a_planted_bug_is_found_and_made_small():
    reports = (play(Case("register", seed), HastyScene) for seed in range(20))
    found = next(report for report in reports if report.violation)
    assert "had promised" in found.violation.what
    small = Shrinker(lambda case: play(case, HastyScene)).shrink(found)
    assert small.violation is not None
    assert len(small.plan) == 1
    assert "crash" in small.plan[0] or "rollback" in small.plan[0]
    again = play(small.case, HastyScene)
    assert again.digest == small.digest
    assert "had promised" in again.trace.splitlines()[-1]


class Deaf(Register):
    """Never takes a number from others: peers do not end alike."""

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        out = (
            super().step(now_s, event) if not isinstance(event, Told | Answered) else ()
        )
        return [e for e in out if not isinstance(e, Ask)]


@dataclass
class DeafScene(RegisterScene):
    settle_s: float = 10.0

    def build(self, place: Place) -> Register:
        return Deaf(place.disk.keep("number", NumberStore), place.rng)


def test_peers_that_do_not_end_alike_are_found():
    report = play(Case("register", 1, minutes=0.2), DeafScene)
    assert report.violation is not None
    assert report.violation.what.startswith("after 10 s of peace: values")


class Faulty(Chatter):
    """Breaks one promise of ``Machine``; which one depends on its class."""

    def _talk(self) -> list[Effect]:
        return self.fault(self.seen[-1][0]) if len(self.seen) > 3 else []

    def fault(self, now_s: float) -> list[Effect]:
        raise NotImplementedError


class Raises(Faulty):
    def fault(self, now_s: float) -> list[Effect]:
        raise KeyError("oops")


class Blames(Faulty):
    def fault(self, now_s: float) -> list[Effect]:
        raise ProtocolError("nobody spoke")


class AnswersTwice(Faulty):
    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        out = list(super().step(now_s, event))
        return out + [e for e in out if isinstance(e, Answer)]

    def fault(self, now_s: float) -> list[Effect]:
        return [Ask(p, TOPIC, b"2", int(now_s * 1e6), 5.0) for p in self.peers]


class OneTicket(Faulty):
    def fault(self, now_s: float) -> list[Effect]:
        return [Ask(self.place.peers[0], TOPIC, b"2", 1, 5.0)]


class Spins(Faulty):
    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        return [Wake(now_s)]


class KeepsSilent(Faulty):
    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        out = super().step(now_s, event)
        return [e for e in out if not isinstance(e, Answer | Refuse)]

    def fault(self, now_s: float) -> list[Effect]:
        self.tickets += 1
        return [Ask(p, TOPIC, b"2", self.tickets, 5.0) for p in self.peers[:1]]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Raises, "KeyError: 'oops'"),
        (Blames, "raised ProtocolError without a cause"),
        (AnswersTwice, "which waits for none"),
        (OneTicket, "asks again with the ticket 1"),
        (Spins, "spins"),
        (KeepsSilent, "has not answered"),
    ],
)
def test_a_broken_promise_of_a_machine_is_found(kind: type[Chatter], words: str):
    world = World(3, kind, nodes=2)
    assert not world.run(250)
    assert words in world.violation.what


def test_a_liar_changes_bytes_and_is_refused_by_honest_peers():
    lying = Faults(liars=1)
    many = [
        play(Case("register", s, minutes=0.5), lambda: RegisterScene(faults=lying))
        for s in range(4)
    ]
    assert {report.violation for report in many} == {None}
    assert sum(r.tally.get("lie", 0) for r in many) > 20
    assert sum(r.tally.get("flood", 0) for r in many) > 100
    assert sum(r.tally.get("refused", 0) for r in many) > 20


def test_faults_in_a_shorter_run_are_the_first_ones_of_a_longer_run():
    long = play(Case("register", 3), RegisterScene)
    short = play(Case("register", 3, minutes=0.5), RegisterScene)
    assert long.plan == short.plan
    assert short.virtual_s < long.virtual_s


def test_a_case_says_the_command_that_plays_it_again():
    case = Case("register", 7, 4, 1.5, frozenset({0, 1, 2, 9}), frozenset({"loss"}))
    assert case.command == (
        "fedcore sim mesh --only register --seed 7 --nodes 4 --minutes 1.5 "
        "--without 0-2,9 --calm loss --trace"
    )
    assert numbers_of(ranges(case.without)) == case.without


@pytest.mark.parametrize("text", ["a", "1-", "-", "1,,2", "1" * 50])
def test_numbers_that_are_none_are_refused(text: str):
    with pytest.raises(ConfigError, match="write numbers such as"):
        numbers_of(text)


def test_an_unknown_scene_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="register"):
        maker("nothing")
    assert "register" in SCENES


def test_the_weight_of_a_machine_counts_what_it_holds():
    chatter = Chat().build(Place(0, 0, None, ["a"], 0, True, None, None, None))  # type: ignore[arg-type]
    light = weight_bytes(chatter)
    chatter.seen += [(1.0, Told("a", TOPIC, bytes(1000))) for _ in range(100)]
    assert weight_bytes(chatter) > light + 100 * 64
    chatter.peers = [chatter.peers]  # type: ignore[list-item]
    chatter.peers.append(chatter.peers)  # type: ignore[arg-type]
    assert weight_bytes(chatter) > 0  # a loop ends


def test_noise_can_be_left_out_by_name():
    assert ALL.without(["loss", "late"]) == replace(ALL, loss=0, late=0)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--only nothing", "choose one of"),
        ("--nodes 1", "--nodes must be in 2..200"),
        ("--minutes nan", "--minutes in"),
        ("--seeds 0", "--seeds must be >= 1"),
        ("--calm war", "choose of loss"),
        ("--without x", "write numbers"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_way_out(words: str, why: str):
    args = full_parser(commands()).parse_args(["sim", "mesh", *words.split()])
    with pytest.raises(ConfigError, match=why):
        list(cases_of(args))


def test_a_command_line_plays_each_seed_with_each_scene():
    line = "sim mesh --from 7 --seeds 2 --only register --only door --calm loss,late"
    args = full_parser(commands()).parse_args(line.split())
    cases = list(cases_of(args))
    assert [(c.scene, c.seed) for c in cases] == [
        ("register", 7), ("door", 7), ("register", 8), ("door", 8),
    ]  # fmt: skip
    assert {c.calm for c in cases} == {frozenset({"loss", "late"})}
