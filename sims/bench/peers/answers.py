"""How a program answers the bench: JSON, one object a line, one command at a time.

Commands come in on standard input, answers go out on the standard output that the
program was started with; what its libraries print goes to standard error. Python
alone, so that a program in another environment can use it.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Act = Callable[..., Any]


def answer(acts: Mapping[str, Act]) -> None:
    """Do what is asked until told to close; ``acts`` by what a command wants done."""
    outward = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "close":
            return
        outward.write(json.dumps({"said": acts[do](**command)}) + "\n")
        outward.flush()
