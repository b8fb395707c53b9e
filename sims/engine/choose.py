"""Which engine does the jobs."""

import os
import sys
from collections.abc import Mapping
from typing import Literal

from fedcore.errors import ConfigError
from fedcore.strategy import PeerId
from fedcore.task import Task, Trainer
from sims.engine.batched import Batched
from sims.engine.forked import Forked
from sims.engine.loop import Loop
from sims.engine.protocol import Engine

Kind = Literal["auto", "batched", "forked", "loop"]
KINDS: tuple[Kind, ...] = ("auto", "batched", "forked", "loop")


def make_engine(
    trainer: Trainer,
    tasks: Mapping[PeerId, Task],
    workers: int = 1,
    kind: Kind = "auto",
) -> Engine:
    """Return an engine that trains the peers of ``tasks`` with ``trainer``.

    All kinds give the same bits, with any number of workers; they differ in speed:

    - ``"loop"``: one job after the other, in this process; the reference.
    - ``"batched"``: cohorts of small models, in this process.
    - ``"forked"``: jobs one by one, in ``workers`` processes.
    - ``"auto"``: cohorts where the trainer, the model and its size allow them (see
      ``sims.engine.batched``), else one by one; in ``workers`` processes if there
      are several, this is Linux and the trainer does not use a GPU, else here.

    Processes are forked here, so have the data loaded; what changes later in this
    process is not seen by them.

    Args:
        trainer: does the jobs.
        tasks: by peer; looked up only for peers with a job.
        workers: processes, >= 1; 0 for one per core that this process may use.
        kind: one of the above.

    Raises:
        ConfigError: there is no such kind, or it cannot work here.
    """
    if kind not in KINDS:
        raise ConfigError(f"engine must be one of {', '.join(KINDS)}: {kind!r}")
    if workers < 0:
        raise ConfigError(f"workers must be >= 0: {workers}; 0 takes every core")
    workers = workers or _cores()
    alone = kind in ("loop", "forked")
    inner = Loop(trainer, tasks) if alone else Batched(trainer, tasks)
    if kind == "forked":
        _check_fork(trainer)
        return Forked(inner, workers)
    if kind == "auto" and workers > 1 and sys.platform == "linux" and not _gpu(trainer):
        return Forked(inner, workers)
    return inner


def _check_fork(trainer: Trainer) -> None:
    if not hasattr(os, "fork"):
        raise ConfigError('engine "forked" needs fork, as on Linux: use "auto"')
    if _gpu(trainer):
        raise ConfigError('a GPU cannot be used after a fork: use engine "loop"')


def _gpu(trainer: Trainer) -> bool:
    """Whether ``trainer``, or the one it wraps, says it may use a GPU."""
    inner = getattr(trainer, "trainer", None)
    return getattr(trainer, "device", "cpu") != "cpu" or bool(inner and _gpu(inner))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
