"""A coordinator that is killed again and again ends with the bits of one that is not.

The lives are real processes and the kills real SIGKILLs: this file, run as a program,
is the nursery that starts a life, kills it at a random moment and starts the next.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.checkpoint import Checkpoints
from fedcore.coordinator import Coordinator, NoJournal
from fedcore.desk import Desk, Event, Fold, Rules
from fedcore.disk import RealDisk
from fedcore.journal import FileJournal
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg

KILLS = 30
LIFE_S = 0.08  # the longest life before a kill, in seconds
ENDLESS = 10**9
PACERS = {"synchronous": Synchronous(cohort=3, quorum=2), "buffered": Buffered(size=2)}


@dataclass
class Diary:
    """A ``FileJournal`` that tells a file, in one write each, what it promised."""

    inner: FileJournal
    file: int

    def tell(self, *words: object) -> None:
        os.write(self.file, (json.dumps(words) + "\n").encode())

    def open(self, begin: Desk[Any, Any]) -> tuple[Desk[Any, Any], Iterable[Event]]:
        desk, lazy = self.inner.open(begin)
        events = list(lazy)
        self.tell("opened", desk.serial + len(events))
        return desk, events

    def record(self, serial: int, event: Event) -> None:
        self.inner.record(serial, event)
        if self.inner.payloads:
            self.tell("recorded", serial)

    def folded(self, desk: Desk[Any, Any]) -> None:
        self.inner.folded(desk)
        self.tell("saved", Checkpoints(self.inner.disk).serials()[-1])

    def save(self, desk: Desk[Any, Any]) -> None:
        self.inner.save(desk)
        self.tell("saved", desk.serial)

    def close(self) -> None:
        self.inner.close()

    def watch(self, fold: Fold[Any]) -> None:
        if fold.folded:
            self.tell("folded", fold.state.version, digest(fold.state.params))


@dataclass
class Seen:
    """Digests by version of a run that nothing disturbs."""

    digests: dict[int, str] = field(default_factory=dict)

    def watch(self, fold: Fold[Any]) -> None:
        self.digests[fold.state.version] = digest(fold.state.params)


def live(pacer: str, journal: Any, watch: Any, rounds: int) -> str:
    tasks = {f"peer{i}": Line(seed=i) for i in range(4)}
    step_s = {peer: 1.0 + 0.7 * i for i, peer in enumerate(tasks)}
    rules = Rules(FedAvg(steps=1), PACERS[pacer])
    link = VirtualLink(SGD(), tasks, step_s)
    coordinator = Coordinator(rules, link, journal, watch)
    return digest(coordinator.run({"weight": torch.zeros(1, 4)}, rounds).params)


def life(folder: Path, pacer: str, payloads: bool, rounds: int) -> int:
    """Start a process that goes on with the run, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(folder / "diary", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    inner = FileJournal(RealDisk(folder / "run"), "kill", payloads, 3, gap_s=0.0)
    diary = Diary(inner, file)
    diary.tell("final", live(pacer, diary, diary.watch, rounds))
    os._exit(0)


def nursery(folder: Path, pacer: str, payloads: bool) -> None:
    torch.set_num_threads(1)
    draw = random.Random(f"{pacer} {payloads}")
    for _ in range(KILLS):
        pid = life(folder, pacer, payloads, ENDLESS)
        time.sleep(draw.uniform(0.0, LIFE_S))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "a life ended by itself"
    versions = [words[1] for words in diary_of(folder) if words[0] == "folded"]
    rounds = max(versions, default=0) + 20
    _, status = os.waitpid(life(folder, pacer, payloads, rounds), 0)
    assert status == 0, "the last life failed"


def diary_of(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "diary").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("payloads", [True, False], ids=["events", "checkpoints"])
@pytest.mark.parametrize("pacer", list(PACERS))
def test_thirty_kills_leave_no_trace(
    pacer: str, payloads: bool, tmp_path: Path
) -> None:
    order = [sys.executable, "-m", "tests.e2e.test_kill", str(tmp_path), pacer]
    subprocess.run([*order, str(int(payloads))], check=True, timeout=120)
    told: defaultdict[str, list[Any]] = defaultdict(list)
    safe = 0  # all events before this serial were promised
    for word, value, *more in diary_of(tmp_path):
        if word == "opened":
            assert value >= safe, "a promised event is gone"
        if word in ("recorded", "saved"):
            safe = max(safe, value + (word == "recorded"))
        told[word].append((value, *more))
    assert len(told["opened"]) > 20, "most lives were killed before they began"
    assert len(told["recorded"]) == len(set(told["recorded"])), "recorded twice"
    seen = Seen()
    final = live(pacer, NoJournal(), seen.watch, max(told["folded"])[0])
    assert told["final"] == [(final,)]
    for version, sha256 in told["folded"]:
        assert sha256 == seen.digests[version], version


if __name__ == "__main__":
    nursery(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
