"""Client messages in forked processes: weights through shared memory, no pickle.

Workers are forked once, after the apps are imported, and answer one message at a
time. A message goes out as a small JSON head on a socket and its arrays in a memory
slab that both processes map; the answer comes back the same way. The state of a node
travels with its messages, so any worker can serve any node, and the bits of a run do
not depend on how many workers there are.
"""

import ctypes
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcore.closing import Closing
from sims.flower.identity import metadata_from, metadata_values, with_content
from sims.flower.node import (
    CRASHED,
    Failure,
    Outcome,
    answer,
    borrowed_generators,
    seed_generators,
)
from sims.flower.slab import Slab, get, put
from sims.flower.wire import joined, split

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One message for one node.

    Attributes:
        seed: of the global generators while the message runs.
    """

    message: Message
    context: Context
    seed: int


@dataclass
class Worker:
    """A child process, seen from its parent.

    Attributes:
        job: index of the job it is at.
        held: big pieces of its last message, which it still has, by token: what is
            broadcast crosses once for each worker, not for each message.
    """

    pid: int
    line: socket.socket
    slab: Slab
    job: int | None = None
    held: dict[int, bytes] = field(default_factory=dict)


class Workers(Closing):
    """A few processes that answer messages; a context manager."""

    def __init__(self, client: ClientApp, count: int, threads: int = 1) -> None:
        """Fork ``count`` workers, >= 1, that run ``client`` with ``threads`` each."""
        self._client, self._threads = client, threads
        self._workers: list[Worker] = []
        for _ in range(count):
            self._workers.append(self._fork())

    def run(
        self, jobs: Sequence[Job], until_s: float | None = None
    ) -> Iterator[Outcome | None]:
        """Yield the outcomes of ``jobs`` in their order; updates their contexts.

        Jobs must be of different nodes. Those not begun when ``time.monotonic()``
        passes ``until_s`` have no outcome.
        """
        waiting = list(range(len(jobs)))[::-1]
        outcomes: list[Outcome | None] = [None] * len(jobs)
        told = 0
        with selectors.DefaultSelector() as ready:
            for worker in self._workers:
                ready.register(worker.line, selectors.EVENT_READ, worker)
                self._start(worker, jobs, waiting)
            while any(worker.job is not None for worker in self._workers):
                for key, _ in ready.select():
                    worker = key.data
                    ready.unregister(key.fileobj)  # the process may be replaced
                    index = worker.job
                    if index is None:  # it died while it had nothing to do
                        self._replace(worker)
                    else:
                        outcomes[index] = self._finish(worker, jobs[index])
                    ready.register(worker.line, selectors.EVENT_READ, worker)
                    if until_s is not None and time.monotonic() >= until_s:
                        waiting.clear()
                    self._start(worker, jobs, waiting)
                while told < len(jobs) and outcomes[told] is not None:
                    yield outcomes[told]
                    told += 1
        yield from outcomes[told:]

    def _start(self, worker: Worker, jobs: Sequence[Job], waiting: list[int]) -> None:
        worker.job = waiting.pop() if waiting else None
        if worker.job is not None:
            with suppress(OSError):  # dead: the next select finds its line closed
                head, blobs = _packed_job(jobs[worker.job])
                pieces = {id(blob): blob for blob in blobs}
                new = {t: blob for t, blob in pieces.items() if t not in worker.held}
                head |= {"order": [id(blob) for blob in blobs], "new": list(new)}
                worker.held = pieces  # alive, so no other piece gets its token
                put(worker.line, worker.slab, head, list(new.values()))

    def _finish(self, worker: Worker, job: Job) -> Outcome:
        worker.job = None
        try:
            head, blobs = get(worker.line, worker.slab)
        except (EOFError, OSError):
            return self._replace(worker)
        count = head["blobs"]
        job.context.state = joined(head["state"], blobs[count:])
        if "failure" in head:
            return Failure(**head["failure"])
        return joined(head["reply"], blobs[:count])

    def _replace(self, worker: Worker) -> Failure:
        """Bury the process of ``worker`` and fork another in its place."""
        _, status = os.waitpid(worker.pid, 0)
        worker.line.close()
        worker.slab.close()
        new = self._fork()
        worker.pid, worker.line, worker.slab = new.pid, new.line, new.slab
        worker.held = {}
        if os.WIFSIGNALED(status):
            end = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            end = f"ended with status {os.waitstatus_to_exitcode(status)}"
        return Failure(CRASHED, f"the worker process {end} while it ran this message")

    def _fork(self) -> Worker:
        slab = Slab()
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            theirs.close()
            return Worker(pid, ours, slab)
        for line in (ours, *(worker.line for worker in self._workers)):
            line.close()  # or its worker would not notice that the parent hung up
        _die_with(parent)
        try:
            self._serve(theirs, slab)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _serve(self, line: socket.socket, slab: Slab) -> None:
        """Answer messages until the parent hangs up; the child's whole life."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        held: dict[int, bytes] = {}
        with borrowed_generators(self._threads):
            while True:
                try:
                    head, blobs = get(line, slab)
                except (EOFError, OSError):
                    return
                have = held | dict(zip(head["new"], blobs, strict=True))
                held = {token: have[token] for token in head["order"]}
                job = _job(head, [held[token] for token in head["order"]])
                seed_generators(job.seed)
                outcome = answer(self._client, job.message, job.context)
                put(line, slab, *_packed_outcome(outcome, job.context.state))

    def close(self) -> None:
        """End every worker and wait for it."""
        for worker in self._workers:
            worker.line.close()
            if worker.job is not None:
                os.kill(worker.pid, signal.SIGKILL)  # nobody wants its answer
            os.waitpid(worker.pid, 0)
            worker.slab.close()
        self._workers.clear()


def _die_with(parent: int) -> None:
    """End this process when its parent ends, even if that was killed.

    The kernel watches the thread that forked, so this is for the main one only.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if sys.platform == "linux" and on_main:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _packed_job(job: Job) -> tuple[dict[str, Any], list[bytes]]:
    content, blobs = split(job.message.content)
    state, more = split(job.context.state)
    context = {k: v for k, v in vars(job.context).items() if k != "state"}
    head = {
        "metadata": metadata_values(job.message.metadata),
        "content": content,
        "blobs": len(blobs),
        "context": context,
        "state": state,
        "seed": job.seed,
    }
    return head, blobs + more


def _job(head: Any, blobs: list[bytes]) -> Job:
    count = head["blobs"]
    content = joined(head["content"], blobs[:count])
    message = with_content(metadata_from(head["metadata"]), content)
    state = joined(head["state"], blobs[count:])
    return Job(message, Context(state=state, **head["context"]), head["seed"])


def _packed_outcome(outcome: Outcome, state: RecordDict) -> tuple[Any, list[bytes]]:
    kept, more = split(state)
    if isinstance(outcome, Failure):
        return {"failure": asdict(outcome), "state": kept, "blobs": 0}, more
    reply, blobs = split(outcome)
    return {"reply": reply, "state": kept, "blobs": len(blobs)}, blobs + more
