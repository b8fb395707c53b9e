"""Makes a failing run small: fewer faults, less noise, less time, same failure.

Greedy: halves of the plan are left out, then quarters, down to single faults, as long
as what is left still fails (delta debugging); then kinds of noise; then time.

Source: Zeller & Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
Transactions on Software Engineering 28(2), 2002.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sims.mesh.faults import NOISE
from sims.mesh.scene import Case, Report

Play = Callable[[Case], Report]
LEAST_MINUTES = 0.05


class Shrinker:
    """Tries smaller cases, at most ``tries`` of them.

    Args:
        play: runs a case.
        tries: most runs.
    """

    def __init__(self, play: Play, tries: int = 80) -> None:
        self.play, self.left = play, tries

    def shrink(self, report: Report) -> Report:
        """Return the report of the smallest case found that still is broken."""
        report = self._fewer_faults(report)
        for kind in NOISE:
            calm = report.case.calm | {kind}
            report = self._try(report, replace(report.case, calm=calm))
        report = self._less_time(report)
        return self._fewer_faults(report)

    def _try(self, report: Report, case: Case) -> Report:
        """Return the report of ``case`` if it is broken, else ``report``."""
        if self.left <= 0:
            return report
        self.left -= 1
        found = self.play(case)
        return found if found.violation else report

    def _fewer_faults(self, report: Report) -> Report:
        size = len(report.numbers)
        while size and self.left > 0:
            for part in _parts(report.numbers, size):
                without = report.case.without | frozenset(part)
                report = self._try(report, replace(report.case, without=without))
            size //= 2
        return report

    def _less_time(self, report: Report) -> Report:
        """Let the faults end sooner, as long as it still is broken."""
        if report.violation is None:
            return report
        ends_s = [report.virtual_s - report.settled_s]
        minutes = ends_s[0] / 60
        while (minutes := minutes / 2) > LEAST_MINUTES and self.left > 0:
            smaller = self._try(report, replace(report.case, minutes=round(minutes, 3)))
            if smaller is report:
                break
            report = smaller
        return report


def _parts(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]
