"""Crash points of a state on disk: what was acknowledged is there, and it is whole.

The disk is ``tests.property.crashing``: it writes down every call, and then the store
is opened on what a crash between any two of them may have left.
"""

from pathlib import Path

import pytest

from fedcore.disk import RealDisk
from p2p.state.chain import Entry, Kind
from p2p.state.logs import Logs
from p2p.state.sqlite import SqliteLogStore
from tests.property.crashing import Memory, Promise, TracedDisk, write_image
from tests.state_cases import copied, count, logs, merge, pen_of, said

ANNA, BEN = pen_of(1), pen_of(2)


def lived(folder: Path) -> tuple[list[object], dict[int, tuple[bytes, list[Entry]]]]:
    """Return the calls of a life with writes and a fork; and what was promised."""
    disk = TracedDisk(folder)
    store = SqliteLogStore(disk)
    held, states = logs(store), {}

    def promise() -> None:
        store.commit()
        states[len(states) + 1] = held.root(), store.owed()
        disk.trace.append(Promise(len(states)))

    for number in range(6):
        said(held, ANNA, count(number), Entry(Kind.NOTE, bytes(5000)))
        promise()
        said(held, BEN, count(number))  # committed with the next one
    promise()
    other = logs()
    for writer in (ANNA, BEN):
        for segment in held.segments(writer.writer, 0):
            entries = list(segment.entries)[1:4]
            said(other, writer, *entries)
    said(other, ANNA, count(99))
    fork = proof(copied(other), held)
    held.freeze(fork, ours=True)
    promise()
    held._let_go([BEN.writer])
    promise()
    store.settle(3)
    store.keep_key(bytes(32), b"opening")
    promise()
    store.close()
    return disk.trace, states


def proof(other: Logs, held: Logs):
    """Return the fork of Anna between the two, which is left as it was."""
    merge(other, held_copy(held))
    return other.by_writer[ANNA.writer].fork


def held_copy(held: Logs) -> Logs:
    found = logs()
    for pen in (ANNA, BEN):
        for segment in held.segments(pen.writer, 0):
            said(found, pen, *[e for e in segment.entries if e.kind != Kind.OPENING])
    return found


def check_all(tmp_path: Path, every: int) -> int:
    """Check all that crashes may leave; equal disks are opened once."""
    trace, states = lived(tmp_path / "life")
    memory, checked = Memory(), 0
    seen: dict[frozenset[tuple[str, bytes]], tuple[bytes, list[Entry]]] = {}
    for at, call in enumerate(trace):
        memory.do(call)
        if at % every:
            continue
        for image in memory.crashes(call, seed=at):
            key = frozenset(image.items())
            if key not in seen:
                write_image(image, tmp_path / "after")
                seen[key] = found_in(tmp_path / "after")
            if memory.promised:
                late = [s for n, s in states.items() if n >= memory.promised]
                assert seen[key] in late
            checked += 1
    return checked


def found_in(folder: Path) -> tuple[bytes, list[Entry]]:
    """Return what a store makes of the files in ``folder``."""
    store = SqliteLogStore(RealDisk(folder))
    seen = logs(store).root(), store.owed()
    store.close()
    return seen


def test_some_crash_points(tmp_path):
    assert check_all(tmp_path, every=150) > 5


@pytest.mark.slow
def test_crash_points_all_over(tmp_path):
    assert check_all(tmp_path, every=5) > 200
