from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import pytest
import torch

from clients.tasks import load_task
from clients.trainers.sgd import SGD
from fedcore.coordinator import (
    Arrivals,
    Coordinator,
    Desk,
    Event,
    Fold,
    Heard,
    Idle,
    NoJournal,
    Rules,
    Sent,
)
from fedcore.errors import QuorumError
from fedcore.pacing import Buffered, Synchronous, Waiting
from fedcore.params import digest
from fedcore.strategy import PeerId, Update, Work, peer_name
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg, Model

START = {"w": torch.zeros(2)}


def answer(peer: str, value: float, version: int = 0) -> Update:
    return Update(peer, version, {"w": torch.full((2,), value)}, 1)


@dataclass
class Script:
    """A link that says what it is told to, and writes down what is asked of it."""

    hears: list[Arrivals]
    peers: tuple[PeerId, ...] = ("a", "b")
    log: list[str] = field(default_factory=list)
    clock_s: float = 0.0

    def now_s(self) -> float:
        return self.clock_s

    def idle(self) -> Sequence[PeerId]:
        return self.peers

    def send(self, peer: PeerId, work: Work) -> None:
        self.log.append(f"send {peer} v{work.version}")

    def receive(self, until_s: float) -> Arrivals:
        if not self.hears:
            raise QuorumError("the script is over")
        self.clock_s += 1.0
        self.log.append("receive")
        return self.hears.pop(0)

    def resume(self, sent: Mapping[PeerId, Sent], now_s: float) -> None:
        self.clock_s = now_s
        self.log.append(f"resume {sorted(sent)} at {now_s}")


@dataclass
class Memory(NoJournal):
    """A journal in memory; ``log`` is shared with the link to see the order."""

    log: list[str]
    events: list[Event] = field(default_factory=list)

    def open(
        self, begin: Desk[Model, Waiting]
    ) -> tuple[Desk[Model, Waiting], Iterable[Event]]:
        return begin, list(self.events)

    def record(self, serial: int, event: Event) -> None:
        assert serial == len(self.events)
        self.events.append(event)
        self.log.append(f"record {type(event).__name__}")

    def folded(self, desk: Desk[Model, Waiting]) -> None:
        self.log.append(f"folded v{desk.state.version}")

    def save(self, desk: Desk[Model, Waiting]) -> None:
        self.log.append("save")

    def close(self) -> None:
        self.log.append("close")


BOTH = Rules(FedAvg(steps=1), Synchronous(cohort=2))


def test_everything_happens_after_its_record_and_a_watcher_before_the_checkpoint() -> (
    None
):
    link = Script([Arrivals([answer("a", 1.0)]), Arrivals([answer("b", 3.0)])])
    journal = Memory(link.log)

    def watch(fold: Fold[Model]) -> None:
        link.log.append(f"watch {fold.serial} {len(fold.folded)}")

    state = Coordinator(BOTH, link, journal, watch).run(START, 1)
    assert state.params["w"].tolist() == [2.0, 2.0]
    assert link.log == [
        *("record Idle", "send a v0", "send b v0"),
        *("receive", "record Heard", "watch 1 0"),
        *("receive", "record Heard", "watch 2 2", "folded v1"),
        *("save", "close"),
    ]


def test_a_replay_sends_nothing_and_tells_the_same_folds() -> None:
    hears = [Arrivals([answer("a", 1.0)]), Arrivals([answer("b", 3.0)])]
    journal = Memory([])
    first: list[Fold[Model]] = []
    Coordinator(BOTH, Script(list(hears)), journal, first.append).run(START, 1)
    for known in range(4):
        link = Script(hears[max(0, known - 1) :])
        again = Memory(link.log, journal.events[:known])
        folds: list[Fold[Model]] = []
        state = Coordinator(BOTH, link, again, folds.append).run(START, 1)
        assert state.params["w"].tolist() == [2.0, 2.0]
        assert [f.replayed for f in folds] == [i < known - 1 for i in range(2)]
        assert [f.serial for f in folds] == [f.serial for f in first]
        sends = [line for line in link.log if line.startswith("send")]
        assert len(sends) == (0 if known else 2)


def test_unanswered_work_is_resumed_at_its_time() -> None:
    hears = [Arrivals([answer("b", 3.0)])]
    link = Script(hears)
    heard = Heard([answer("a", 1.0)], [], {}, 7.0)
    journal = Memory(link.log, [Idle(("a", "b"), 5.0), heard])
    Coordinator(BOTH, link, journal).run(START, 1)
    assert link.log[0] == "resume ['b'] at 7.0"


def test_a_finished_run_is_not_resumed() -> None:
    link = Script([])
    heard = Heard([answer("a", 1.0), answer("b", 1.0)], [], {}, 7.0)
    journal = Memory(link.log, [Idle(("a", "b"), 5.0), heard])
    state = Coordinator(BOTH, link, journal).run(START, 1)
    assert state.version == 1
    assert link.log == ["folded v1", "save", "close"]  # it may have died before that


def test_an_event_that_fails_is_not_recorded() -> None:
    rules = Rules(FedAvg(steps=1), Synchronous(cohort=2, quorum=2, retries=0))
    link = Script([Arrivals(lost={"a": "gone", "b": "gone"})])
    journal = Memory(link.log)
    with pytest.raises(QuorumError):
        Coordinator(rules, link, journal).run(START, 1)
    assert [type(e) for e in journal.events] == [Idle]
    assert link.log[-1] == "close"
    link = Script([Arrivals([answer("a", 1.0)]), Arrivals([answer("b", 3.0)])])
    state = Coordinator(rules, link, Memory(link.log, journal.events)).run(START, 1)
    assert state.params["w"].tolist() == [2.0, 2.0]


def test_silence_is_not_recorded() -> None:
    hears = [Arrivals(), Arrivals(), Arrivals([answer("a", 1.0), answer("b", 1.0)])]
    link = Script(hears)
    journal = Memory(link.log)
    Coordinator(BOTH, link, journal).run(START, 1)
    assert [type(e) for e in journal.events] == [Idle, Heard]


def test_an_answer_is_taken_once() -> None:
    once = answer("a", 4.0)
    link = Script(
        [Arrivals([once, once]), Arrivals([once]), Arrivals([answer("b", 0.0)])]
    )
    folds: list[Fold[Model]] = []
    state = Coordinator(BOTH, link, watch=folds.append).run(START, 1)
    assert state.params["w"].tolist() == [2.0, 2.0]
    assert [[r.kind for r in f.refused] for f in folds] == [
        ["unasked"],
        ["unasked"],
        [],
    ]


def test_of_a_bad_answer_only_the_reason_is_recorded() -> None:
    bad = [answer("a", torch.nan), Update(["a"], 0, {}, 1)]  # type: ignore[arg-type]
    link = Script([Arrivals([*bad, answer("b", 3.0)])])
    journal = Memory(link.log)
    state = Coordinator(BOTH, link, journal).run(START, 1)
    assert state.params["w"].tolist() == [3.0, 3.0]
    heard = journal.events[-1]
    assert isinstance(heard, Heard)
    assert [u.peer for u in heard.updates] == ["b"]
    assert [r.kind for r in heard.refused] == ["nan", "peer-type"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, pressed by a test."""


@dataclass
class Stopping(Memory):
    """Ctrl-C comes while event ``at`` is recorded: just before, or just after."""

    at: int = 0
    after: bool = False

    def record(self, serial: int, event: Event) -> None:
        if self.after:
            super().record(serial, event)
        if serial == self.at:
            raise Interrupted
        if not self.after:
            super().record(serial, event)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("pacer", [Synchronous(cohort=2), Buffered(size=2)])
def test_ctrl_c_anywhere_and_resume_give_the_same_bits(
    pacer: Synchronous | Buffered, after: bool
) -> None:
    rules = Rules(FedAvg(steps=1), pacer)
    tasks = {f"peer{i}": Line(seed=i) for i in range(3)}
    params = {"weight": torch.zeros(1, 4)}

    def go(journal: NoJournal) -> str:
        link = VirtualLink(SGD(), tasks, {p: 1.0 + i for i, p in enumerate(tasks)})
        return digest(Coordinator(rules, link, journal).run(params, 3).params)

    whole = Memory([])
    want = go(whole)
    for at in range(len(whole.events)):
        stopped = Stopping([], at=at, after=after)
        with pytest.raises(KeyboardInterrupt):
            go(stopped)
        assert len(stopped.events) == at + after
        assert stopped.log[-1] == "close"
        resumed = Memory([], stopped.events)
        assert go(resumed) == want
        assert len(resumed.events) == len(whole.events)


def test_the_deadline_goes_to_the_link() -> None:
    seen: list[float] = []

    class Deadlines(Script):
        def receive(self, until_s: float) -> Arrivals:
            seen.append(until_s)
            return super().receive(until_s)

    rules = Rules(FedAvg(steps=1), Synchronous(cohort=2, patience_s=9.0))
    link = Deadlines([Arrivals([answer("a", 1.0), answer("b", 1.0)])])
    Coordinator(rules, link).run(START, 1)
    assert seen == [9.0]
    rules = Rules(FedAvg(steps=1), Synchronous(cohort=2))
    link = Deadlines([Arrivals([answer("a", 1.0), answer("b", 1.0)])])
    Coordinator(rules, link).run(START, 1)
    assert seen == [9.0, inf]


def test_a_peer_that_works_on_one_model_twice_draws_other_batches():
    """Or its second answer would be a copy of its first, and count twice."""
    quick, slow = peer_name(0), peer_name(1)
    tasks = {peer: load_task("digits").whole() for peer in (quick, slow)}
    link = VirtualLink(SGD(lr=0.1), tasks, {quick: 1.0, slow: 10.0})
    folded = []
    rules = Rules(FedAvg(steps=2), Buffered(size=4))
    start = load_task("digits").start(0)
    Coordinator(rules, link, watch=lambda fold: folded.extend(fold.folded)).run(
        start, 3
    )
    assert [(u.peer, u.version) for u in folded[:4]] == [(quick, 0)] * 4
    assert len({digest(u.payload) for u in folded}) == len(folded)
