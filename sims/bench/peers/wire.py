"""How the bench speaks with an engine in another process: JSON, one object a line.

The engine reads commands from standard input and answers on the standard output it
was started with; whatever its libraries print goes to standard error. Python alone,
so that an engine in another environment can use it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

from sims.bench.case import Case, Weights, write_weights


class Engine(Protocol):
    """One case, ready to be trained for as many rounds as asked."""

    def rounds(self, count: int) -> list[float]:
        """Train ``count`` more rounds; return the seconds each took."""
        ...

    def weights(self) -> Weights:
        """Return the model as it is now, by name of layer as in ``case.SHAPES``."""
        ...


Make = Callable[[Case], Engine]


@dataclass
class Wire:
    """The engine's end of the line."""

    inward: TextIO
    outward: TextIO

    def hear(self) -> dict[str, Any]:
        """Return the next command; ``{"do": "close"}`` when there will be none."""
        text = self.inward.readline()
        command: dict[str, Any] = json.loads(text) if text else {"do": "close"}
        return command

    def tell(self, answer: dict[str, Any]) -> None:
        """Send ``answer``."""
        self.outward.write(json.dumps(answer) + "\n")
        self.outward.flush()


def connect() -> Wire:
    """Take standard input and output for the wire; prints go to standard error."""
    outward = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return Wire(sys.stdin, outward)


def obey(wire: Wire, engines: dict[str, Engine], command: dict[str, Any]) -> None:
    """Do one command on an engine that is open."""
    engine = engines[command["case"]]
    if command["do"] == "rounds":
        wire.tell({"seconds": engine.rounds(command["count"])})
    elif command["do"] == "weights":
        path = Path(command["path"])
        write_weights(path, engine.weights())
        wire.tell({"path": str(path)})


def opened(began: float, packages: Sequence[str]) -> dict[str, Any]:
    """Return the answer to ``open``: the seconds it took, and what is installed."""
    versions = {package: version(package) for package in packages}
    return {"open_s": time.perf_counter() - began, "versions": versions}


def serve(make: Make, *packages: str) -> None:
    """Open cases with ``make`` and train them, until told to close.

    Args:
        make: sets a case up.
        packages: whose versions to tell.
    """
    wire, engines = connect(), dict[str, Engine]()
    while (command := wire.hear())["do"] != "close":
        if command["do"] == "open":
            began = time.perf_counter()
            case = Case(**command["case"])
            engines[case.name] = make(case)
            wire.tell(opened(began, packages))
        else:
            obey(wire, engines, command)


def timed(step: Callable[[], None], count: int) -> list[float]:
    """Call ``step`` ``count`` times and return the seconds each took."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds
