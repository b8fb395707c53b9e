"""``fedcore sim mesh``: many simulated meshes in which everything goes wrong.

Each seed is one mesh. A seed that breaks something is made as small as possible, shown,
and told as a command that plays it again.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from fedcore.errors import ConfigError
from fedcore.metrics import plain
from sims.cli.doctor import usable_cores
from sims.cli.tables import say, table
from sims.mesh.campaign import Sum, reports, smallest
from sims.mesh.catalog import SCENES, maker, run_case
from sims.mesh.faults import NOISE
from sims.mesh.scene import Case, Report

TRIES = 80  # runs spent on making a failing one small
TRACE_LINES = 200
SHOWN = 3  # failing seeds that are made small


def mesh(args: argparse.Namespace) -> int:
    """Play the seeds; return 1 if any broke something."""
    cases = list(cases_of(args))
    if args.trace or (args.seed is not None and len(cases) == 1):
        return _one(cases, args.trace)
    found: dict[str, Sum] = {}
    for done, report in enumerate(reports(cases, usable_cores()), 1):
        found.setdefault(report.case.scene, Sum()).add(report)
        _progress(done, len(cases), report, quiet=args.json)
    broken = [report for part in found.values() for report in part.broken]
    if args.json:
        _say_json(found)
    else:
        _tell(found)
    for report in sorted(broken, key=lambda r: r.case.seed)[:SHOWN]:
        _explain(smallest(report, TRIES, TRACE_LINES))
    return 1 if broken else 0


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    """Yield what the command line asks for.

    Raises:
        ConfigError: a scene, a fault or a number that cannot be.
    """
    names = args.only or list(SCENES)
    for name in names:
        maker(name)
    if args.nodes is not None and not 2 <= args.nodes <= 200:
        raise ConfigError(f"--nodes must be in 2..200: {args.nodes}")
    if args.seeds < 1 or (args.minutes is not None and not 0 < args.minutes <= 1440):
        raise ConfigError("--seeds must be >= 1, and --minutes in (0, 1440]")
    calm = frozenset(args.calm.split(",")) if args.calm else frozenset()
    if wrong := calm - {*NOISE}:
        raise ConfigError(f"--calm {min(wrong)!r}: choose of {', '.join(NOISE)}")
    first = range(args.start, args.start + args.seeds)
    without = numbers_of(args.without)
    for seed in first if args.seed is None else [args.seed]:
        for name in names:
            yield Case(name, seed, args.nodes, args.minutes, without, calm)


def numbers_of(text: str) -> frozenset[int]:
    """Return the numbers of a text such as ``0-3,7``.

    Raises:
        ConfigError: it is no such text.
    """
    numbers: set[int] = set()
    for part in text.split(",") if text else []:
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal()) or len(part) > 12:
            raise ConfigError(f"--without {text!r}: write numbers such as 0-3,7")
        numbers.update(range(int(low), min(int(high), 100_000) + 1))
    return frozenset(numbers)


def _one(cases: Sequence[Case], trace: bool) -> int:
    """Play few cases and say what happened in each."""
    broken = False
    for case in cases:
        report = run_case(case, lines=TRACE_LINES if trace else 0)
        broken |= report.violation is not None
        _explain(report)
    return int(broken)


def _explain(report: Report) -> None:
    """Say what happened in one run, and how to see it again."""
    faults = "\n".join(f"  {line}" for line in report.plan) or "  none"
    say(f"\n{report.case.scene}, seed {report.case.seed}: what went wrong by plan")
    say(faults)
    if report.trace:
        say(f"\n{report.trace}")
    say(f"\n{_verdict(report)}\ndigest {report.digest}\nagain: {report.case.command}")


def _verdict(report: Report) -> str:
    if report.violation is None:
        return (
            f"all held: {report.virtual_s:.0f} s, {report.steps} steps, "
            f"well {report.settled_s:.1f} s after the last fault"
        )
    broken = report.violation
    return f"BROKEN at {broken.at_s:.3f} s, {broken.who}: {broken.what}"


def _progress(done: int, total: int, report: Report, *, quiet: bool) -> None:
    if report.violation is not None:
        sys.stderr.write(
            f"\r{report.case.scene}, seed {report.case.seed}: {_verdict(report)}\n"
        )
    elif quiet or (done % 10 and done != total):
        return
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done}/{total} runs ")
        sys.stderr.write("\n" if done == total else "")
        sys.stderr.flush()


def _tell(found: dict[str, Sum]) -> None:
    head = ["scene", "seeds", "broken", "virtual h", "x real time", "steps", "well in"]
    rows = [
        [
            name,
            str(part.runs),
            str(len(part.broken)),
            f"{part.virtual_s / 3600:.2f}",
            f"{part.virtual_s / max(part.wall_s, 1e-9):.0f}",
            str(part.steps),
            f"{part.settled_s:.1f} s",
        ]
        for name, part in found.items()
    ]
    say(table(head, rows))
    kinds = sorted({kind for part in found.values() for kind in part.tally})
    say("")
    names = list(found)
    say(
        table(
            ["what happened", *names],
            [[k, *(str(found[n].tally.get(k, 0)) for n in names)] for k in kinds],
        )
    )
    figures = [(n, k, v) for n in names for k, v in sorted(found[n].figures.items())]
    if figures:
        say("")
        say(table(["most", "scene", ""], [[k, n, f"{v:g}"] for n, k, v in figures]))


def _say_json(found: dict[str, Sum]) -> None:
    for name, part in found.items():
        value = {**vars(part), "scene": name, "broken": len(part.broken)}
        commands = [report.case.command for report in part.broken]
        say(json.dumps(plain({**value, "again": commands})))
