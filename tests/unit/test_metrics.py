import json
from collections.abc import Mapping
from math import nan

import pytest
import torch

from fedcore.coordinator import Fold
from fedcore.errors import StorageError
from fedcore.gate import Refusal
from fedcore.metrics import Meter, Row, csv_of, line_of, mean_metric, plain, read_rows
from fedcore.params import digest
from fedcore.strategy import Update
from strategies.fedavg import Model

ROW = Row(1, 2, 40, 0.5, 0.0, 0, {"nan": 1}, 3, 100, 50, 2.0, 0.25, "ab", ("a", "b"))


def update(peer: str, version: int, examples: int, **metrics: float) -> Update:
    return Update(peer, version, {}, examples, metrics)


def fold(version: int, *updates: Update, lost: Mapping[str, str] = {}) -> Fold[Model]:
    state = Model(version, {"w": torch.ones(2)})
    return Fold(state, updates, [Refusal("x", "nan", "why", True)], lost, 7.5)


def meter() -> Meter:
    seconds = iter([10.0, 12.5, 12.5, 13.0, 13.0])
    bytes_ = iter([(0, 0), (100, 60), (150, 90)])
    return Meter(
        lambda: next(bytes_),
        lambda: next(seconds),
        lambda s: {"loss": float(s.version)},
    )


def test_a_fold_becomes_a_row_with_what_was_refused_and_lost_before() -> None:
    watch = meter()
    watch.start()
    assert watch.take(fold(0, lost={"z": "gone"})) is None
    row = watch.take(
        fold(1, update("b", 0, 30, loss=1.0), update("a", 0, 10, loss=3.0))
    )
    assert row is not None
    assert (row.round, row.clients, row.examples) == (1, 2, 40)
    assert row.train_loss == pytest.approx(1.5)  # (30 * 1 + 10 * 3) / 40
    assert (row.refused, row.lost) == ({"nan": 2}, 1)
    assert (row.down_bytes, row.up_bytes, row.wall_s) == (100, 60, 2.5)
    assert (row.peers, row.clock_s, row.eval) == (("a", "b"), 7.5, {"loss": 1.0})
    assert row.sha256 == digest({"w": torch.ones(2)})


def test_counts_begin_again_after_each_row() -> None:
    watch = meter()
    watch.start()
    watch.take(fold(1, update("a", 0, 1), lost={"z": "gone"}))
    row = watch.take(fold(2, update("a", 0, 1), update("b", 1, 1)))
    assert row is not None
    assert (row.refused, row.lost) == ({"nan": 1}, 0)
    assert (row.down_bytes, row.up_bytes, row.wall_s) == (50, 30, 0.5)
    assert (row.staleness, row.staleness_max) == (0.5, 1)


def test_nobody_told_a_loss() -> None:
    assert mean_metric([update("a", 0, 1)], "loss") is None


def test_rows_read_back_equal() -> None:
    assert read_rows(line_of(ROW) * 2) == [ROW, ROW]


def test_what_json_cannot_hold_becomes_null() -> None:
    assert (
        json.loads(line_of(Row.of({**ROW.json(), "train_loss": nan})))["train_loss"]
        is None
    )
    assert plain({"a": (float("inf"), 1)}) == {"a": [None, 1]}


def test_a_torn_last_line_is_left_out() -> None:
    assert read_rows(line_of(ROW) + line_of(ROW)[:-20]) == [ROW]


LISTLESS = json.dumps({**ROW.json(), "peers": 3}) + "\n"


@pytest.mark.parametrize("bad", ["{}\n", "nonsense\n", "[1]\n", LISTLESS])
def test_a_damaged_line_is_named(bad: str) -> None:
    with pytest.raises(StorageError, match="line 2"):
        read_rows(line_of(ROW) + bad + line_of(ROW))


def test_csv_has_one_line_a_round_and_counts_refusals() -> None:
    head, line = csv_of([ROW]).splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert (cells["round"], cells["refused"], cells["sha256"]) == ("1", "1", "ab")
    assert "peers" not in cells
