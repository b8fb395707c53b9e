"""The rows of the benchmark that are about the pool itself."""

import torch

from sims.bench.directions import SIZES, Stage
from sims.bench.ties import column_row


def test_a_stage_compares_with_replays_the_limit_and_normal_numbers():
    rows = list(Stage(3000, torch.device("cpu")).rows())
    names = [row.name for row in rows]
    each = [
        f"{what} vs {whom}"
        for what in ("expand", "project")
        for whom in ("K replays", "one pass")
    ]
    assert names == each * len(SIZES) + ["one direction vs randn + axpy"]
    assert all(row.ratio == row.other / row.ours > 0 for row in rows)


def test_shifting_tames_a_hot_column():
    row = column_row(8)
    assert row.ours < 0.4
    assert row.other > 0.7
