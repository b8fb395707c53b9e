"""What the doctors find: on this machine, or about a node; and what to do about it."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Verdict = Literal["PASS", "WARN", "FAIL"]
EPOCH_S = 1_760_000_000.0  # October 2025: a clock before it is wrong


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        found: what is there.
        fix: what to do about it; empty when all is well.
    """

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


def told(found: Iterable[Check], write: Callable[[str], object], as_json: bool) -> int:
    """Write each of ``found`` as it comes, and how many there were of each verdict.

    Args:
        found: the findings.
        write: takes text for people, or objects a line.
        as_json: whether to write objects.

    Returns:
        The exit code: 1 if one of them is a FAIL.
    """
    counts: dict[Verdict, int] = dict.fromkeys(("PASS", "WARN", "FAIL"), 0)
    for check in found:
        counts[check.verdict] += 1
        write(f"{json.dumps(asdict(check)) if as_json else _line(check)}\n")
    if not as_json:
        words = [f"{count} {verdict}" for verdict, count in counts.items()]
        write(f"{', '.join(words)}\n")
    return int(counts["FAIL"] > 0)


def _line(check: Check) -> str:
    fix = f"\n      fix: {check.fix}" if check.fix else ""
    return f"{check.verdict}  {check.name}: {check.found}{fix}"


def package(name: str, floor: str, fix: str, use: str = "") -> Check:
    """Check that a package is here and not too old.

    Args:
        name: of the distribution.
        floor: the oldest version that will do.
        fix: how to get it.
        use: what it is needed for, if one can do without.
    """
    lacking: Verdict = "WARN" if use else "FAIL"
    try:
        text = version(name)
    except PackageNotFoundError:
        only = f"; only needed for {use}" if use else ""
        return Check(name, lacking, f"not installed{only}", fix)
    if parsed(text) < parsed(floor):
        return Check(name, lacking, f"{text}, older than {floor}", fix)
    return Check(name, "PASS", text)


def parsed(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``2.13.0+cpu`` as (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def clock(now_s: float, need: str) -> Check:
    """Check that a clock is plausible.

    Args:
        now_s: what it shows, seconds since 1970.
        need: who needs it right.
    """
    found = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now_s))
    if now_s < EPOCH_S:
        fix = f"set the clock: {need} (timedatectl set-ntp true)"
        return Check("clock", "FAIL", found, fix)
    return Check("clock", "PASS", found)
