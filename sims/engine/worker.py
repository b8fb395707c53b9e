"""The forked process: takes jobs, answers with updates, dies with its parent."""

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch

from sims.engine.loop import Blame
from sims.engine.mail import (
    Message,
    Reader,
    Sheaf,
    error_words,
    job_of,
    receive,
    send,
    update_words,
)
from sims.engine.protocol import Engine, Job
from sims.engine.slab import Slab

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 28
MMAP_BYTES = 1 << 25  # the most that glibc takes
SHARED, INBOX = 0, 1  # marks of the slabs of a worker
OUTBOXES = 2, 3  # two: one is read while the other is written


def serve(engine: Engine, wire: socket.socket, slabs: Sequence[Slab]) -> None:
    """Answer messages until the other side hangs up."""
    while (message := receive(wire)) is not None:
        send(wire, _answer(engine, message, slabs))


def _answer(engine: Engine, message: Message, slabs: Sequence[Slab]) -> Message:
    for slab, size in zip(slabs, message["sizes"], strict=False):
        slab.map(size)
    reader = Reader(slabs, dict(enumerate(message["forms"])))
    mark: int = message["outbox"]
    outbox = Sheaf(slabs[mark], mark)
    done: list[Any] = []
    answer: Message = {"done": done, "error": None}
    for unit in message["units"]:
        jobs = [job_of(words, reader) for words in unit]
        words = _attempt(engine, jobs, outbox, answer)
        if words is None:
            break
        done.append(words)
    return answer | {"outbox": mark, "forms": outbox.forms, "size": slabs[mark].size}


def _attempt(
    engine: Engine, jobs: Sequence[Job], outbox: Sheaf, answer: Message
) -> Sequence[Any] | None:
    """Return the updates as plain data; or None, and tell the error in ``answer``."""
    try:
        updates = engine.run(jobs)
        with Blame(", ".join(job.peer for job in jobs)):  # for what is no update
            return [update_words(u, outbox.put) for u in updates]
    except Exception as error:  # noqa: BLE001  the one border of this process
        answer["error"] = error_words(error)
        return None


class Worker:
    """The parent's end of one worker process.

    Args:
        engine: what the process does its jobs with; it sees it as it is now.
        shared: the slab with the trees that go to all workers.
        others: workers whose wires the new process must not hold open.
    """

    def __init__(
        self, engine: Engine, shared: Slab, others: Sequence["Worker"] = ()
    ) -> None:
        self.slabs = (shared, Slab(), Slab(), Slab())
        self.outbox = OUTBOXES[0]  # where the next answer goes
        self.wire, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = _fork()
        if self.pid == 0:
            for wire in (self.wire, *(w.wire for w in others)):
                wire.close()
            _live(engine, theirs, self.slabs, parent)
        theirs.close()

    def end(self) -> None:
        """Kill the process, if it still lives, and give everything back."""
        self.wire.close()
        os.kill(self.pid, signal.SIGKILL)  # not yet waited for, so the id is its own
        os.waitpid(self.pid, 0)
        for slab in self.slabs[INBOX:]:
            slab.close()


def _fork() -> int:
    with warnings.catch_warnings():  # Python 3.12 warns if threads exist: ours are idle
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _live(
    engine: Engine, wire: socket.socket, slabs: Sequence[Slab], parent: int
) -> NoReturn:
    """Be the worker; never return into the parent's code."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with(parent)
        _be_modest()
        _keep_memory()
        gc.freeze()  # or the collector would write to, and so copy, shared pages
        torch.set_num_threads(1)
        serve(engine, wire, slabs)
    finally:
        os._exit(0)


def _be_modest() -> None:
    """Ask not to stop our parent when it wakes us: it has others to wake."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # not allowed here: only slower
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _keep_memory() -> None:
    """Have glibc keep what we free: we need it again at once.

    Else every unit of jobs faults its memory in anew, a fifth of its time.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


def _die_with(parent: int) -> None:
    """Have the kernel end this process together with its parent.

    The kernel watches the thread that forked, not its process; so this is asked
    for under the main thread only. Otherwise the hang-up of the wire ends us.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if sys.platform == "linux" and in_main:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it was gone before we asked
