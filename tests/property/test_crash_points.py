"""Every crash point of a run: nothing promised is lost, nothing is applied twice."""

import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.checkpoint import pack
from fedcore.coordinator import Coordinator, NoJournal
from fedcore.desk import Desk, Event, Idle, Rules
from fedcore.disk import RealDisk
from fedcore.journal import FileJournal
from fedcore.pacing import Buffered, Pacer, Synchronous, Waiting
from fedcore.params import digest
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg, Model
from tests.property.crashing import (
    Call,
    Memory,
    Promise,
    TracedDisk,
    write_image,
)

ROUNDS = {True: 4, False: 6}  # with events; with checkpoints only
TASKS = {f"peer{i}": Line(seed=i) for i in range(4)}
STEP_S = {f"peer{i}": 1.0 + 0.7 * i for i in range(4)}
START = {"weight": torch.zeros(1, 4)}
SLOW = pytest.mark.slow
PACERS: dict[str, Pacer[Waiting]] = {
    "synchronous": Synchronous(cohort=3, quorum=2),
    "buffered": Buffered(size=2),
}

AnyDesk = Desk[Model, Waiting]


@dataclass(frozen=True)
class Remembering:
    """Local SGD, each answer computed once: it is a function of its arguments."""

    known: dict[tuple[object, ...], Update] = field(default_factory=dict)

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        key = (peer, work.version, work.steps, digest(work.params))
        if key not in self.known:
            self.known[key] = SGD(lr=0.1)(task, work, peer)
        return self.known[key]


@dataclass
class Kept(NoJournal):
    """Keeps events in memory."""

    events: list[Event] = field(default_factory=list)

    def record(self, serial: int, event: Event) -> None:
        assert serial == len(self.events)
        self.events.append(event)


@dataclass
class Watched:
    """A ``FileJournal`` that writes its promises down, and shows what it recovered."""

    inner: FileJournal
    rules: Rules[Model, Waiting]
    trace: list[Call] = field(default_factory=list)
    recovered: AnyDesk | None = None

    def open(self, begin: AnyDesk) -> tuple[AnyDesk, list[Event]]:
        desk, lazy = self.inner.open(begin)
        events = list(lazy)
        self.recovered = replay(self.rules, desk, events)[-1]
        return desk, events

    def record(self, serial: int, event: Event) -> None:
        self.inner.record(serial, event)
        if self.inner.payloads:
            self.trace.append(Promise(serial + 1))

    def folded(self, desk: AnyDesk) -> None:
        self.inner.folded(desk)

    def save(self, desk: AnyDesk) -> None:
        self.inner.save(desk)
        self.trace.append(Promise(desk.serial))

    def close(self) -> None:
        self.inner.close()


def replay(
    rules: Rules[Model, Waiting], desk: AnyDesk, events: list[Event]
) -> list[AnyDesk]:
    """Return the desks before, between and after ``events``."""
    desks = [desk]
    for event in events:
        step = rules.step_out if isinstance(event, Idle) else rules.step_in
        desk, _ = step(desk, event)  # type: ignore[operator]
        desks.append(desk)
    return desks


@dataclass(frozen=True)
class Trial:
    """One run that is killed, and what it should come to."""

    pacer: Pacer[Waiting]
    payloads: bool
    trainer: Remembering = field(default_factory=Remembering)

    @property
    def rules(self) -> Rules[Model, Waiting]:
        return Rules(FedAvg(steps=2), self.pacer)

    def link(self) -> VirtualLink:
        return VirtualLink(self.trainer, TASKS, STEP_S)

    def journal(self, disk: RealDisk) -> FileJournal:
        return FileJournal(
            disk,
            "trial",
            self.payloads,
            every_folds=2 if self.payloads else 1,
            gap_s=-inf,
        )

    def run(self, journal: Any) -> str:
        state = Coordinator(self.rules, self.link(), journal).run(
            START, ROUNDS[self.payloads]
        )
        return digest(state.params)

    def reference(self) -> tuple[str, list[bytes]]:
        """Return the final digest and every desk of a run that nothing disturbs."""
        kept = Kept()
        final = self.run(kept)
        desks = replay(self.rules, self.rules.begin(START), kept.events)
        return final, [pack("desk", desk) for desk in desks]

    def traced(self, folder: Path) -> list[Call]:
        """Return every call on the disk, and every promise, of a run in ``folder``."""
        disk = TracedDisk(folder)
        self.run(Watched(self.journal(disk), self.rules, disk.trace))
        return disk.trace


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: recoveries flush a lot."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("name", "payloads", "nth"),
    [
        pytest.param("synchronous", True, 12, id="synchronous-events-some"),
        pytest.param("synchronous", True, 1, id="synchronous-events", marks=SLOW),
        pytest.param("synchronous", False, 1, id="synchronous-checkpoints", marks=SLOW),
        pytest.param("buffered", True, 1, id="buffered-events", marks=SLOW),
        pytest.param("buffered", False, 1, id="buffered-checkpoints", marks=SLOW),
    ],
)
def test_every_crash_point_recovers(
    name: str,
    payloads: bool,
    nth: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Or every ``nth`` one, where tests must be quick."""
    trial = Trial(PACERS[name], payloads)
    final, desks = trial.reference()
    trace = trial.traced(folder / "traced")
    memory, seen = Memory(), set()
    for at, call in enumerate([*trace, Promise(0)]):
        for image in memory.crashes(call, seed=at):
            key = (memory.promised, *sorted(image.items()))
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % nth:
                continue
            write_image(image, folder / "crashed")
            journal = Watched(trial.journal(RealDisk(folder / "crashed")), trial.rules)
            assert trial.run(journal) == final, (at, call)
            found = journal.recovered
            assert found is not None
            assert found.serial >= memory.promised, (at, call)
            assert pack("desk", found) == desks[found.serial], (at, call)
        memory.do(call)
    with capsys.disabled():
        sys.stdout.write(f" {len(seen)} crash points, {len(trace)} calls ")
    assert len(seen) > (300 if payloads else 100)


@pytest.mark.parametrize("seed", range(12))
def test_crashes_during_recovery_recover_too(seed: int, folder: Path) -> None:
    draw = random.Random(seed)
    trial = Trial(draw.choice(list(PACERS.values())), draw.random() < 0.5)
    final, _ = trial.reference()
    image: dict[str, bytes] = {}
    promised = 0
    for life in range(8):
        write_image(image, folder / "here")
        disk = TracedDisk(folder / "here")
        journal = Watched(trial.journal(disk), trial.rules, disk.trace)
        assert trial.run(journal) == final
        assert journal.recovered is not None
        assert journal.recovered.serial >= promised
        memory = Memory.of(image)
        cut = draw.randrange(1, min(len(disk.trace), 60 + 30 * life))
        for call in disk.trace[:cut]:
            memory.do(call)
        promised = max(promised, memory.promised)
        image = draw.choice(list(memory.crashes(disk.trace[cut], seed)))
