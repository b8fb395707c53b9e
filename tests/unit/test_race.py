"""Races: what is counted, what is chosen, and that processes change nothing."""

import os
from math import inf

import pytest

from fedcore.errors import PeerLostError
from sims.bench.asynchrony import (
    ENTRANTS,
    chart,
    counted,
    total_rows,
    track_rows,
    tracks,
)
from sims.bench.pool import mapped
from sims.bench.race import Entrant, Lap, Plan, Run, Standing, Track, cost, laps, race

CANCER = (
    "task.name=breast-cancer",
    "task.model=linear",
    "run.clients=3",
    "devices.mean_s=2",
)
FEDAVG = Entrant("FedAvg", ("strategy.steps=4",), "strategy.server_lr", (0.01, 1.0))


@pytest.mark.parametrize("processes", [1, 3])
def test_jobs_come_back_in_their_order(processes):
    found = mapped(lambda x: [x, x * x], range(40), processes)
    assert found == [[x, x * x] for x in range(40)]


def test_a_process_that_dies_is_an_error_that_names_the_job():
    with pytest.raises(PeerLostError, match="died: boom"):
        mapped(lambda x: os._exit(3) if x == "boom" else x, ["a", "boom"], 2)


def test_the_axis_is_the_virtual_clock_or_the_rounds():
    clock = Track("t", CANCER, 1.0, horizon=3.5, unit=8, beyond=True)
    rounds = Track("t", CANCER, 1.0, horizon=6, unit=2, axis="rounds", beyond=True)
    sparse = Track("t", CANCER, 1.0, 3.5, unit=8, every=2, beyond=True)
    runs = [Run(FEDAVG, track, 1.0, 5) for track in (clock, rounds, sparse)]
    found = [[x for x, _ in lap.points] for lap in laps(runs, 1)]
    # 4 batches of 2 s are one unit; half a unit is a round
    assert found == [[1, 2, 3], [i / 2 for i in range(1, 13)], [1, 3]]


def test_processes_change_nothing_and_gains_are_chosen_on_other_seeds():
    track = Track("t", CANCER, target=0.93, horizon=6, unit=8)
    alone, together = (race([FEDAVG], track, Plan([7], [1, 2], n)) for n in (1, 2))
    assert alone == together
    [standing] = alone
    assert standing.gain == 1.0  # a hundredth of a step gets nowhere in six rounds
    assert standing.at_edge
    assert standing.finished == 2
    assert standing.middle <= 6


def test_a_run_that_diverges_has_not_arrived():
    track = Track("t", (*CANCER, "trainer.lr=1e30"), 1.0, horizon=9, unit=8)
    [lap] = laps([Run(FEDAVG, track, 1e6, 1)], 1)
    assert lap.reached(1.0) == inf


def lap(*accuracies):
    return Lap(tuple(enumerate(accuracies, start=1)))


def standing(entrant, *several, track=None):
    track = track or Track("a, b, c", (), target=0.8, horizon=10)
    return Standing(entrant, track, 1.0, False, several)


def test_times_medians_and_the_cost_of_a_gain():
    seen = standing(FEDAVG, lap(0.5, 0.9), lap(0.8), lap(0.5, 0.6))
    assert seen.times == [2, 1, inf]
    assert (seen.finished, seen.middle) == (2, 2)
    assert cost(seen.laps, seen.track) == pytest.approx((2 + 1 + 10 * 1.2) / 3)
    assert (lap(0.5, 0.6).at(1.9), lap(0.5, 0.6).at(0.5)) == (0.5, 0.0)
    assert (lap().best, lap(0.5, 0.4).last) == (0.0, 0.4)


def test_rows_compare_with_the_best_rival_and_say_who_did_not_arrive():
    quick, slow, never = lap(0.9), lap(0.1, 0.1, 0.1, 0.9), lap(0.1)
    seen = {e.name: standing(e, slow) for e in ENTRANTS}
    seen["FedAvg"] = standing(ENTRANTS[1], never)
    seen["FedCadence"] = standing(ENTRANTS[0], quick)
    track = seen["FedAvg"].track
    ours, published = track_rows(track, seen)
    assert (ours.ours, ours.other, ours.ratio) == (1, 4, 4)
    assert "FedAvg not in time (0/1, gain 1)" in ours.note
    assert (published.ours, published.ratio) == (4, 1)
    assert counted(seen["FedAvg"]) == 10
    [first, *_] = total_rows([seen, seen])
    assert first.name == "all: FedCadence vs FedAvg"
    assert first.ratio == pytest.approx(10)
    assert first.note == "ahead in 2, level in 0, behind in the rest"
    lines = chart(track, list(seen.values())).series
    assert len(lines) == len(ENTRANTS)
    assert lines[0].points[-1][1] == 0.9  # it stays where it arrived


def test_the_federations_of_the_benchmark_are_all_different(tmp_path):
    found = list(tracks(tmp_path))
    assert len({t.settings for t in found}) == len({t.name for t in found}) == 16
    for entrant in ENTRANTS:  # every setting is one that there is
        Run(entrant, found[-1], entrant.gains[0], 0).config()
