"""Many large answers are folded: how much memory at most, and how long.

    python -m sims.bench.peers.gather WAY ANSWERS NUMBERS

``WAY`` is ``flat``, a coordinator with which payloads wait for the fold; ``eager``, one
that sums them as they come; or ``stream``, two aggregator processes and no coordinator.
Prints seconds, bytes at the highest above those at the start, and a digest.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedcore.coordinator import Coordinator
from fedcore.desk import Rules
from fedcore.hierarchy.aggregate import Aggregator, InTurn
from fedcore.hierarchy.pool import Pool
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.strategy import PeerId, Update, Work, peer_name
from fedcore.task import Task
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg

AHEAD = 2  # answers that the virtual link computes together


@dataclass(frozen=True)
class Cheap:
    """A trainer that costs nothing but the payload."""

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        size = int(peer[-6:]) % 7 - 3.0
        payload = {n: torch.full_like(t, size / 8) for n, t in work.params.items()}
        return Update(peer, work.version, payload, 1 + int(peer[-6:]) % 100)


@dataclass(frozen=True, slots=True)
class Found:
    """What it took."""

    seconds: float
    peak_bytes: int
    sha256: str


def updates(count: int, numbers: int) -> Iterator[Update]:
    """Yield updates that cost next to nothing to make."""
    line = torch.linspace(-1, 1, numbers + 64)
    for i in range(count):
        yield Update(f"p{i}", 0, {"w": line[i % 64 :][:numbers]}, 1 + i % 100)


def status_bytes(key: str, pid: int) -> int:
    """Return an amount of memory of a process, as the kernel tells it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition(f"{key}:")[2].split()[0]) * 1024


def own_bytes(pool: Pool) -> int:
    """Return the memory of this process and the pool's; libraries do not count."""
    private = sum(status_bytes("RssAnon", pid) for pid in (os.getpid(), *pool.pids))
    return private + pool.shared_bytes


def coordinated(answers: int, numbers: int, aggregator: Aggregator | None) -> Found:
    """Fold one round of answers that come one after another."""
    tasks = {peer_name(i): Line(seed=i) for i in range(answers)}
    speeds = {peer: 1.0 + i / answers for i, peer in enumerate(tasks)}
    link = VirtualLink(Cheap(), tasks, speeds, ahead=AHEAD)
    pacer = Synchronous(cohort=answers, quorum=answers)
    rules = Rules(FedAvg(steps=1), pacer, aggregator=aggregator)
    start = {"w": torch.zeros(numbers)}
    before, began = status_bytes("VmHWM", os.getpid()), time.perf_counter()
    state = Coordinator(rules, link).run(start, 1)
    took_s = time.perf_counter() - began
    grown = status_bytes("VmHWM", os.getpid()) - before
    return Found(took_s, grown, digest(state.params))


def streamed(answers: int, numbers: int) -> Found:
    """Sum updates that pass through two aggregators, looking at the memory."""
    with Pool(2) as pool:
        pool.summed(updates(4, 10))
        before, peak = own_bytes(pool), 0

        def watched() -> Iterator[Update]:
            nonlocal peak
            for number, update in enumerate(updates(answers, numbers)):
                if number % max(answers // 50, 1) == 0:
                    peak = max(peak, own_bytes(pool))
                yield update

        began = time.perf_counter()
        total = pool.summed(watched())
        took_s = time.perf_counter() - began
    return Found(took_s, peak - before, digest(total.mean()))


def main() -> None:
    """Do what the words ask for."""
    way, answers, numbers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    if way == "stream":
        found = streamed(answers, numbers)
    else:
        found = coordinated(answers, numbers, InTurn() if way == "eager" else None)
    sys.stdout.write(f"{found.seconds} {found.peak_bytes} {found.sha256}\n")


if __name__ == "__main__":
    main()
