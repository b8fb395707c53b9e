"""How long a user waits, from the shell, for the first result of a simulation."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sims.bench.case import Case
from sims.bench.frame import Options, Row, middle, skipped, versus
from sims.bench.peers.known import FLOWER
from sims.bench.process import ROOT, MissingError, Process

WORK = "tiny model on digits, 10 clients, 3 rounds, from an empty shell to the result"
NAME = "first result vs flower+ray"
LIMIT_S = 3.0
REPEATS = 3
FLAGS = ("--set", "run.rounds=3", "--set", "run.clients=10")
PATIENCE_S = 120.0


def shell_rows(options: Options, folder: str) -> Iterator[Row]:
    """Yield our whole run, from a cold shell, against Flower's first three rounds."""
    ours, theirs, reason = list[float](), list[float](), ""
    for _ in range(1 if options.quick else REPEATS):
        try:
            ours.append(ours_s(folder))
        except MissingError as error:
            yield skipped(NAME, WORK, "s", str(error))
            return
        if not options.quick:
            try:
                theirs.append(flower_s(options, folder))
            except MissingError as error:
                reason = str(error)
    yield versus("first result vs limit", WORK, middle(ours), LIMIT_S, "s")
    if theirs:
        note = "run_simulation, the quicker of Flower's two ways; Ray started anew"
        yield versus(NAME, WORK, middle(ours), middle(theirs), "s", note)
    else:
        yield skipped(NAME, WORK, "s", reason or "left out of --quick")


def ours_s(folder: str) -> float:
    """Return the seconds of ``fedcore sim run``, run report included.

    Raises:
        MissingError: the command failed.
    """
    program = "import sys; from fedcore.cli import main; sys.exit(main())"
    began = time.perf_counter()
    done = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-c", program, "sim", "run", "--out", folder, *FLAGS],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    took_s = time.perf_counter() - began
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise MissingError(f"fedcore sim run failed: {words.splitlines()[-1:]}")
    return took_s


def flower_s(options: Options, folder: str) -> float:
    """Return the seconds from the start of Flower's program to its third round."""
    case = Case("shell", "tiny", 10, 10, 100, str(Path(folder)), batch=20, epochs=2)
    began = time.perf_counter()
    process = Process(FLOWER, options.pythons, folder)
    try:
        process.ask_open(case)
        process.opened(PATIENCE_S)
        process.rounds(case, 3, PATIENCE_S)
        return time.perf_counter() - began
    finally:
        process.close()
