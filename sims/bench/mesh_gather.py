"""Whole nodes: from one invite to one mesh, and a file to everybody; part of "mesh".

The processes are those of ``fedcore peer``, as ``fedcore peer rehearse`` plays them.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from clients.peer.rehearsal import ALONE, NAMES, Actor, level, until
from fedcore.errors import PeerLostError
from sims.bench.channel import MEGA, WAYS, Far
from sims.bench.frame import Options, Row, middle, skipped, versus

FILE_MB, QUICK_MB = 100, 20


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one gathering took, in seconds.

    Attributes:
        started_s: until the last program answers.
        whole_s: until all know all, with channels, and hold one state.
        put_s: of the command that adds a file on one node.
        shared_s: from the begin of that command until all have the file.
    """

    started_s: float
    whole_s: float
    put_s: float
    shared_s: float


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    turns, size_mb = (1, QUICK_MB) if options.quick else (3, FILE_MB)
    for count in (3,) if options.quick else (3, 5):
        options.say(f"{count} whole nodes")
        try:
            took = [gathered(count, size_mb) for _ in range(turns)]
        except PeerLostError as error:
            yield skipped(f"{count} nodes, one invite", "whole nodes", "s", str(error))
            continue
        yield from _compared(count, size_mb, took)


def _compared(count: int, size_mb: int, took: Sequence[Gathered]) -> Iterator[Row]:
    whole_s, started_s, put_s, shared_s = (
        middle([getattr(each, name) for each in took])
        for name in ("whole_s", "started_s", "put_s", "shared_s")
    )
    work = "from one invite; all join at once, each a program of its own"
    name = f"{count} nodes are one mesh vs their programs started"
    note = f"{whole_s - started_s:.1f} s after the last program answered; looked at "
    note += "every 0.1 s"
    yield versus(name, work, whole_s, started_s, "s", note)
    copies_s = middle([copied_s(size_mb, count - 1) for _ in took])
    name = f"{size_mb} MB to {count - 1} others vs TLS copies one by one"
    work = "listed, fetched by all, each chunk checked, on disk"
    note = f"{put_s:.1f} s of ours until it is added on one node; the copies stay in "
    note += "memory, unchecked"
    yield versus(name, work, shared_s, copies_s, "s", note)


def gathered(count: int, size_mb: int) -> Gathered:
    """Let ``count`` nodes become one mesh and share a file of ``size_mb``.

    Raises:
        PeerLostError: it did not come about within a minute.
    """
    with ExitStack() as stack:
        prefix = "fedcore-bench-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        actors = [Actor(name, folder / name) for name in NAMES[:count]]
        for actor in actors:
            stack.callback(actor.kill)
        first, *others = actors
        first.run("init", "bench", *ALONE, "--set", f"name={first.name}")
        first.up()
        invite = first.run("invite")
        began_s = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda actor: _joined(actor, invite), others))
        started_s = time.monotonic() - began_s
        until(lambda: level(actors), "all are level")
        whole_s = time.monotonic() - began_s
        return Gathered(started_s, whole_s, *_shared_s(actors, folder, size_mb))


def _joined(actor: Actor, invite: str) -> None:
    actor.run("join", invite, *ALONE, "--set", f"name={actor.name}")
    actor.up()


def _shared_s(
    actors: Sequence[Actor], folder: Path, size_mb: int
) -> tuple[float, float]:
    path = folder / "checkpoint.bin"
    path.write_bytes(os.urandom(size_mb * MEGA))
    began_s = time.monotonic()
    cid = actors[1].run("put", str(path))
    put_s = time.monotonic() - began_s
    until(lambda: all(_has(actor, cid) for actor in actors), "everybody has it")
    return put_s, time.monotonic() - began_s


def _has(actor: Actor, cid: str) -> bool:
    return any(c["cid"] == cid and c["here"] for c in actor.status()["contents"])


def copied_s(size_mb: int, times: int) -> float:
    """Return the seconds of fetching as many bytes over a plain TLS socket."""
    far = Far("tls")
    into = memoryview(bytearray(size_mb * MEGA))
    try:
        way = WAYS["tls"][0](far.where)
        way.pull(into[:MEGA])  # both ends are ready
        began_s = time.monotonic()
        for _ in range(times):
            way.pull(into)
        took_s = time.monotonic() - began_s
        way.close()
        return took_s
    finally:
        far.close()
