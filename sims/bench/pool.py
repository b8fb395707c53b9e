"""Many independent jobs in a few forked processes, results in the order of the jobs.

The children see what this process has loaded, and nothing is copied to them. A job's
number comes through one pipe that all children read from, so that no child waits while
another has work left; its result goes back as a line of JSON.
"""

import json
import os
import select
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from fedcore.errors import PeerLostError

T = TypeVar("T")

NUMBER = struct.Struct("<H")  # so short that a read gets all of it or none
MOST_JOBS = 1 << 15  # of two bytes, as many as a pipe holds unread
PART_BYTES = 1 << 16


def mapped(job: Callable[[T], Any], of: Sequence[T], processes: int) -> list[Any]:
    """Return ``[job(x) for x in of]``, computed by ``processes`` at once.

    Args:
        job: returns plain data, as JSON knows them; seeds come in its argument.
        of: at most 32768.
        processes: >= 1; 1 computes here.

    Raises:
        PeerLostError: a process died before its job was done; its own message is on
            the standard error stream.
    """
    if processes == 1 or len(of) < 2:
        return [json.loads(json.dumps(job(x))) for x in of]
    if len(of) > MOST_JOBS:
        raise ValueError(f"{len(of)} jobs at once, at most {MOST_JOBS}")
    numbers = _written(b"".join(NUMBER.pack(i) for i in range(len(of))))
    children = [_child(job, of, numbers) for _ in range(min(processes, len(of)))]
    os.close(numbers)
    try:
        found = dict(_read([wire for _, wire in children]))
    finally:
        for pid, _ in children:
            os.waitpid(pid, 0)
    if len(found) < len(of):
        missing = min(set(range(len(of))) - found.keys())
        raise PeerLostError(f"the process that did job {missing} died: {of[missing]}")
    return [found[i] for i in range(len(of))]


def _written(data: bytes) -> int:
    """Return the end to read of a pipe that holds ``data`` and no more."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


def _child(job: Callable[[T], Any], of: Sequence[T], numbers: int) -> tuple[int, int]:
    """Fork a child and return its process id and where its results can be read."""
    read, write = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns if threads exist: ours are idle
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(read)
        _work(job, of, numbers, write)
    os.close(write)
    return pid, read


def _work(job: Callable[[T], Any], of: Sequence[T], numbers: int, out: int) -> NoReturn:
    """Do jobs until none is left; never return into the parent's code."""
    status = 1
    try:
        with os.fdopen(out, "w") as lines:
            while number := os.read(numbers, NUMBER.size):
                (i,) = NUMBER.unpack(number)
                lines.write(json.dumps([i, job(of[i])]) + "\n")
                lines.flush()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def _read(wires: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield what comes until all is closed; all at once, so that no child waits."""
    poll, texts = select.poll(), dict.fromkeys(wires, b"")
    for wire in wires:
        poll.register(wire, select.POLLIN)
    waiting = set(wires)
    while waiting:
        for wire, _ in poll.poll():
            part = os.read(wire, PART_BYTES)
            texts[wire] += part
            if not part:
                poll.unregister(wire)
                os.close(wire)
                waiting.remove(wire)
    for text in texts.values():
        yield from ((i, result) for i, result in map(json.loads, _whole(text)))


def _whole(text: bytes) -> list[bytes]:
    """Return the lines of ``text``, less one that a dying process began."""
    return text[: text.rfind(b"\n") + 1].splitlines()
