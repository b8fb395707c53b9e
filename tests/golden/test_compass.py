"""Our pacer against the scheduler of FedCompass's authors, on schedules they agree on.

``compass.json`` was recorded from APPFL 1.12.0, unmodified, by ``record_compass.py``
beside it, which says how. The same answers at the same times must lead to the same
groups, the same batches, the same folds of the same age, to the last bit of the times.
"""

import json
from pathlib import Path

import pytest

from fedcore.strategy import peer_name
from strategies.compass_pacer import Compass
from tests.driving import Drive

TRACES = json.loads(Path(__file__).with_name("compass.json").read_text("utf-8"))
NAMES = [f"{t['kind']}-{t['seed']}" for t in TRACES]


class Grouped(Drive):
    """Notes of every start its group, too; of a peer's first there is none."""

    def _assign(self):
        before = len(self.starts)
        super()._assign()
        for i, (now_s, peer, steps) in enumerate(self.starts[before:], before):
            self.starts[i] = now_s, peer, steps, self.pace.jobs[peer].group - 1


def replayed(trace):
    """Return starts and folds of our pacer under the arrivals of ``trace``."""
    given = trace["settings"]
    pacer = Compass(given["min"], given["max"], given["momentum"], given["factor"])
    number = {peer_name(i): i for i in range(trace["clients"])}
    drive = Grouped(pacer, set(number))
    for now_s, client in trace["arrivals"]:
        drive.answer(now_s, peer_name(client))
    starts = [[t, number[p], steps, g] for t, p, steps, g in drive.starts if g >= 0]
    folds = [
        [now_s, [[number[peer], version - base] for peer, base in fold]]
        for version, (now_s, fold) in enumerate(drive.folds)
    ]
    return sorted(starts), folds


@pytest.mark.parametrize("trace", TRACES, ids=NAMES)
def test_same_groups_same_steps_same_staleness(trace):
    assert replayed(trace) == (trace["starts"], trace["folds"])


def test_the_traces_hold_what_makes_them_worth_comparing():
    """Late answers, groups of several, old answers, steps from few to many."""
    folds = [fold for t in TRACES for _, fold in t["folds"]]
    shares = {s / t["settings"]["max"] for t in TRACES for _, _, s, _ in t["starts"]}
    assert sum(t["late"] for t in TRACES) >= 20
    assert max(map(len, folds)) >= 8
    assert max(age for fold in folds for _, age in fold) >= 5
    assert min(shares) < 0.25
    assert max(shares) == 1


@pytest.mark.parametrize(("key", "other"), [("min", 1), ("max", 99), ("momentum", 1.0)])
def test_another_setting_is_told_apart(key, other):
    """Or else the equalities above would say little."""
    trace = TRACES[0]
    changed = {**trace, "settings": {**trace["settings"], key: other}}
    try:
        starts, _ = replayed(changed)
    except KeyError:  # a peer is not even at work when it answers
        return
    assert starts != trace["starts"]
