"""Worker processes that share the data of this one, and models through memory.

The workers are forked once, so the examples are never copied or sent. A model
that several jobs start from is written once per batch into memory that all
workers see; a base model that works name (``fedcore.bases``) stays there. Jobs are
dealt out longest first, several at a time while many are left. The updates are put
in the order of the jobs, so neither the number of workers nor their speed changes
a bit.
"""

import select
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from fedcore.closing import Closing
from fedcore.errors import PeerLostError
from fedcore.params import Params, size_bytes
from fedcore.strategy import Update
from sims.engine.batched import Batched
from sims.engine.loop import Loop
from sims.engine.mail import (
    Message,
    Reader,
    Sheaf,
    error_of,
    job_words,
    receive,
    send,
    update_of,
)
from sims.engine.protocol import Job, Unit
from sims.engine.slab import Slab
from sims.engine.worker import INBOX, OUTBOXES, SHARED, Worker

TRIES = 2  # a unit of jobs may lose its process once
MESSAGE_BYTES = 1 << 25  # about the most that goes in, and comes out, at once
SHARE = 2  # a message takes 1 / (SHARE x workers) of what is left


@dataclass
class _Batch:
    """One call of ``run``: what is to do, what is done.

    Attributes:
        units: jobs that go together.
        queue: units not yet dealt out, in the order of dealing.
        lost: how often a unit's process died.
        failed: the first unit that raised, and its error.
    """

    jobs: Sequence[Job]
    units: Sequence[Unit]
    queue: list[int]
    shared: Sheaf
    references: dict[int, Sequence[int] | None] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    updates: dict[int, Update] = field(default_factory=dict)
    failed: tuple[int, Exception] | None = None

    def draw(self, most: int) -> list[int]:
        """Take units from the queue: one, or up to ``most`` if they are not large."""
        units, size = [self.queue.pop(0)], 0
        if units[0] in self.lost:
            return units  # alone, so that the next death has one culprit
        while self.queue and len(units) < most and size < MESSAGE_BYTES:
            units.append(self.queue.pop(0))
            works = [self.jobs[i].work for i in self.units[units[-1]].jobs]
            size += sum(size_bytes(w.params) + size_bytes(w.aux) for w in works)
        return units

    def put(self, tree: Params, inbox: Sheaf) -> Sequence[int] | None:
        """Return the reference of ``tree``, written to ``inbox`` if not shared."""
        if id(tree) in self.references:
            return self.references[id(tree)]
        return inbox.put(tree)

    def fail(self, unit: int, error: Exception) -> None:
        """Remember the error of the first unit; later ones need not be done."""
        if self.failed is None or unit < self.failed[0]:
            self.failed = unit, error
        self.queue = [u for u in self.queue if u < self.failed[0]]


class Forked(Closing):
    """Do jobs in ``workers`` processes, each with a copy of ``inner``.

    Args:
        inner: what a worker does its jobs with.
        workers: processes, >= 1; they are forked here.
    """

    def __init__(self, inner: Loop | Batched, workers: int) -> None:
        self._inner = inner
        self._shared = Slab()
        self._lasting = Sheaf(self._shared, SHARED)  # base models, for all batches
        self._bases: list[tuple[Params, Sequence[int] | None]] = []
        self._workers: list[Worker] = []
        for _ in range(workers):
            self._workers.append(Worker(inner, self._shared, self._workers))
        self._busy: dict[int, list[int]] = {}  # worker -> units it is at

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [w.pid for w in self._workers]

    def run(self, jobs: Sequence[Job]) -> list[Update]:
        if not self._workers:
            raise RuntimeError("this engine is closed")
        batch = self._batch(jobs)
        try:
            while batch.queue or self._busy:
                self._deal(batch)
                self._collect(batch)
        finally:
            for index in list(self._busy):  # only after an error: their work is void
                self._replace(index)
        if batch.failed:
            raise batch.failed[1]
        return [batch.updates[i] for i in range(len(jobs))]

    def _batch(self, jobs: Sequence[Job]) -> _Batch:
        units = self._inner.units(jobs)
        queue = sorted(range(len(units)), key=lambda u: (-units[u].steps, u))
        self._keep_bases(jobs)
        shared = Sheaf(self._shared, SHARED, self._lasting)
        batch = _Batch(jobs, units, queue, shared)
        batch.references.update((id(tree), at) for tree, at in self._bases)
        for tree in _shared_trees(jobs):
            if id(tree) not in batch.references:
                batch.references[id(tree)] = batch.shared.put(tree)
        return batch

    def _keep_bases(self, jobs: Sequence[Job]) -> None:
        """Have the base models of ``jobs`` in front; write them only if one is new."""
        works = [job.work for job in jobs]
        named = {id(w.params): w.params for w in works if "base" in w.hints}
        if not named.keys() <= {id(tree) for tree, _ in self._bases}:
            self._lasting = Sheaf(self._shared, SHARED)
            self._bases = []  # written over now, even if that fails half way
            self._bases = [(t, self._lasting.put(t)) for t in named.values()]

    def _deal(self, batch: _Batch) -> None:
        for index in range(len(self._workers)):
            if index not in self._busy and batch.queue:
                self._start(batch, index)

    def _start(self, batch: _Batch, index: int) -> None:
        units = batch.draw(len(batch.queue) // (SHARE * len(self._workers)))
        self._busy[index] = units
        worker = self._workers[index]
        with suppress(ConnectionError):  # a dead one is found out by ``_collect``
            send(worker.wire, _order(batch, units, worker))

    def _collect(self, batch: _Batch) -> None:
        poll = select.poll()
        wires = {self._workers[i].wire.fileno(): i for i in self._busy}
        for wire in wires:
            poll.register(wire, select.POLLIN)
        for wire, _ in poll.poll():
            index = wires[wire]
            answer = receive(self._workers[index].wire)
            if answer is None:
                self._bury(batch, index)
            else:
                self._take(batch, index, answer)

    def _take(self, batch: _Batch, index: int, answer: Message) -> None:
        units, worker = self._busy.pop(index), self._workers[index]
        if answer["error"]:
            done = len(answer["done"])
            batch.queue[:0] = units[done + 1 :]  # not reached
            batch.fail(units[done], error_of(answer["error"]))
        self._deal(batch)  # before we read, so that nobody waits for that
        worker.slabs[answer["outbox"]].map(answer["size"])
        reader = Reader(worker.slabs, {answer["outbox"]: answer["forms"]})
        for unit, updates in zip(units, answer["done"], strict=False):
            for i, words in zip(batch.units[unit].jobs, updates, strict=True):
                batch.updates[i] = update_of(words, reader)

    def _bury(self, batch: _Batch, index: int) -> None:
        """Replace a dead worker; its units are tried once more, one by one."""
        units = self._busy[index]
        self._replace(index)
        for unit in units:
            batch.lost[unit] = batch.lost.get(unit, 0) + 1
        again = [u for u in units if batch.lost[u] < TRIES]
        batch.queue[:0] = again
        for unit in units:
            if unit not in again:
                peers = ", ".join(batch.jobs[i].peer for i in batch.units[unit].jobs)
                told = f"the process that trained {peers} died twice"
                batch.fail(unit, PeerLostError(told))

    def _replace(self, index: int) -> None:
        self._busy.pop(index, None)
        old = self._workers[index]
        old.end()
        others = [w for w in self._workers if w is not old]
        self._workers[index] = Worker(self._inner, self._shared, others)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        if self._workers:
            self._shared.close()
        self._workers = []


def _shared_trees(jobs: Sequence[Job]) -> list[Params]:
    """Return the trees, told apart by identity, that more than one job uses."""
    seen: dict[int, Params] = {}
    shared: dict[int, Params] = {}
    for tree in (t for j in jobs for t in (j.work.params, j.work.aux)):
        into = shared if id(tree) in seen else seen
        into[id(tree)] = tree
    return list(shared.values())


def _order(batch: _Batch, units: Sequence[int], worker: Worker) -> Message:
    """Return the message that starts ``worker`` on ``units``."""
    inbox = Sheaf(worker.slabs[INBOX], INBOX)
    put = partial(batch.put, inbox=inbox)
    told = [[job_words(batch.jobs[i], put) for i in batch.units[u].jobs] for u in units]
    worker.outbox = sum(OUTBOXES) - worker.outbox  # the other one
    return {
        "units": told,
        "forms": [batch.shared.forms, inbox.forms],
        "sizes": [slab.size for slab in worker.slabs],
        "outbox": worker.outbox,
    }
