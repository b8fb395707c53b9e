"""The benchmark of shared seeds: rows and figures from curves that are made up."""

import xml.etree.ElementTree as ET

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.strategy import Work
from fedcore.task import params_of
from sims.bench import curves, kilobytes, probes, seeds
from sims.bench.curves import METHODS, Mark
from sims.report.svg import alone
from tests.e2e.normed import Normed


def straight(fall, size=100.0):
    """Return a curve that falls by ``fall`` in each of two rounds."""
    return tuple(
        Mark(60.0 * r, size * r, size * r, 2.0 * r, 5 - fall * r) for r in range(3)
    )


def found(**others):
    """Return curves of all methods: a nat in two rounds, if nothing else is said."""
    falls = dict.fromkeys(METHODS, 0.5) | others
    seen = {name: [straight(fall)] * 3 for name, fall in falls.items()}
    return seeds.Found(seen, dict.fromkeys(METHODS, 0.1))


def rows_of(curves):
    return {row.name: row for row in seeds.curve_rows(curves)}


def test_costs_per_nat_by_hand():
    """120 passes, 0.4 kB and 4 s in all; ours falls by 1 nat, theirs by half of one."""
    rows = rows_of(found(**{seeds.GAUSSIAN: 0.25}))
    row = rows[f"{seeds.HADAMARD} vs {seeds.GAUSSIAN}, passes/nat"]
    assert (row.ours, row.other, row.ratio) == (120, 240, 2)
    assert row.note == "loss 5.000 to 4.000 and 4.500; lower in 3 of 3 seeds"
    row = rows[f"{seeds.HADAMARD} vs {seeds.MEZO}, kB/nat"]
    assert (row.ours, row.other) == (pytest.approx(0.4), pytest.approx(0.4))
    assert rows[f"{seeds.FERRET} vs {seeds.FEDAVG}, s/nat"].ours == 4


def test_a_loss_that_does_not_fall_has_no_cost():
    row = rows_of(found(**{seeds.LORA_FEDAVG: -0.1}))[
        f"{seeds.HADAMARD} vs {seeds.LORA_FEDAVG}, passes/nat"
    ]
    assert row.ratio is None
    assert "the loss did not fall" in row.note


def test_equal_bytes_end_with_the_last_round_that_fits():
    made = found()
    made.curves[seeds.HADAMARD] = [straight(0.5, size=150.0)] * 3  # 600 in all
    made.curves[seeds.LORA_FEDAVG] = [straight(0.5, size=250.0)] * 3  # 500 a round
    row = rows_of(made)[f"{seeds.HADAMARD} vs {seeds.LORA_FEDAVG}, loss at equal bytes"]
    assert (row.ours, row.other) == (4, 4.5)
    assert row.note == f"1 kB a client; 1 rounds of {seeds.LORA_FEDAVG}"


def test_figures_show_all_methods_they_compare():
    charts = {chart.slug: chart for chart in seeds.charts(found())}
    assert [line.name for line in charts["bench-seeds-pools"].series] == [
        *seeds.FORWARD_ONLY
    ]
    bytes_ = charts["bench-seeds-bytes"].series[0]
    assert len(bytes_.points) == 2  # nothing is sent before the first round
    assert all(
        ET.fromstring(alone(chart)).tag.endswith("svg") for chart in charts.values()
    )


def test_pools_take_the_step_of_mezo_and_everybody_has_one():
    for method in METHODS.values():
        assert bool(method.rates) != bool(method.like)
        assert METHODS[method.like].rates if method.like else method.rates


def test_methods_have_equal_passes_and_name_real_settings():
    size = curves.Size(rounds=4, passes=120, seeds=1)
    for method in METHODS.values():
        run = curves.config_of(curves.Tried(method, 0.1, 0, size))
        passes = run.strategy.steps * method.passes * run.run.rounds
        assert passes == size.passes * size.rounds


def test_the_wire_is_what_the_codec_writes():
    model = torch.zeros(1000)
    wire = kilobytes.wire_of(kilobytes.FedKSeed(size=16, steps=3), {"w": model})
    assert 8 * 16 < wire.down < 8 * 16 + 300
    assert 4 * 16 < wire.up < 4 * 16 + 100
    whole = kilobytes.wire_of(kilobytes.FedAvg(), {"w": model})
    assert whole.down > 4000
    assert whole.up > 4000


def test_a_timed_task_is_the_task_and_counts_its_losses():
    task = Normed(0)
    timed = probes.Timed(task)
    work = Work(0, params_of(task.model()), 3)
    update = SGD()(timed, work, "p")
    assert update.metrics == SGD()(task, work, "p").metrics
    assert timed.forward_s > 0
    assert probes.Round(3.0, 1.0).share == 25
