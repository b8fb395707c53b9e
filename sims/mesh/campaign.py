"""Many seeds over all cores, and what they add up to."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sims.mesh.catalog import run_case
from sims.mesh.scene import Case, Report
from sims.mesh.shrink import Shrinker


@dataclass
class Sum:
    """What the runs of one scene add up to.

    Attributes:
        runs: how many seeds were played.
        broken: the reports of those that broke something, in order of arrival.
        virtual_s: time in their worlds.
        wall_s: time that one core spent on them.
        steps: events that machines took.
        settled_s: the longest time from the end of the faults to all well.
        tally: what happened, and how often.
        figures: the largest of each number of the scene.
    """

    runs: int = 0
    broken: list[Report] = field(default_factory=list)
    virtual_s: float = 0.0
    wall_s: float = 0.0
    steps: int = 0
    settled_s: float = 0.0
    tally: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Count ``report``."""
        self.runs += 1
        self.broken += [report] if report.violation else []
        self.virtual_s += report.virtual_s
        self.wall_s += report.wall_s
        self.steps += report.steps
        self.settled_s = max(self.settled_s, report.settled_s)
        self.tally.update(report.tally)
        for name, value in report.figures.items():
            self.figures[name] = max(value, self.figures.get(name, value))


def reports(cases: Sequence[Case], cores: int) -> Iterator[Report]:
    """Yield the reports of ``cases`` as they end, played by ``cores`` processes."""
    if cores == 1 or len(cases) < 2:
        yield from map(run_case, cases)
        return
    # A fork shares what is loaded; where there is none, each process loads it anew.
    ways = multiprocessing.get_all_start_methods()
    way = "fork" if "fork" in ways else "spawn"
    with multiprocessing.get_context(way).Pool(cores) as pool:
        yield from pool.imap_unordered(run_case, cases, chunksize=4)


def sums(found: Iterator[Report]) -> Mapping[str, Sum]:
    """Return the sums of ``found`` by scene."""
    out: dict[str, Sum] = {}
    for report in found:
        out.setdefault(report.case.scene, Sum()).add(report)
    return out


def smallest(report: Report, tries: int, lines: int) -> Report:
    """Return the report of the smallest case found that is broken like ``report``."""
    return Shrinker(partial(run_case, lines=lines), tries).shrink(report)
